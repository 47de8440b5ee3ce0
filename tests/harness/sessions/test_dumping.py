from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import open_tensors
from tests.harness.wrong_port import CASE, WRONG


def test_dumped_tensors_are_those_of_the_report_and_nothing_is_overwritten(tmp_path: Path) -> None:
    report = gc.judge(WRONG, CASE, operations=["moe.norm", "moe.output"])
    (path,) = report.dump(tmp_path / "dump")
    assert path.name == "moe.norm.float32.safetensors"
    for name, x in open_tensors(path).items():
        np.testing.assert_array_equal(x, report.tensors("moe.norm")[name])
    with pytest.raises(FileError, match="exists already"):
        report.dump(tmp_path / "dump")
    assert len(report.dump(tmp_path / "all", passing=True)) == 2
