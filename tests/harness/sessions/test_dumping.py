from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import open_tensors, write_tensors
from grok_conformance.harness.sessions.dumping import how_to_load
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


def test_the_snippet_counts_what_is_not_finite_and_tells_the_first_few_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("safetensors")
    error = np.zeros((4, 3))
    error[1:] = np.nan
    error[0, 2] = np.inf
    write_tensors(tmp_path / "x.safetensors", {"error": error, "fence": np.ones((4, 3)), "mask": np.ones((4, 3), bool)})
    exec(how_to_load([tmp_path / "x.safetensors"]).partition("\n\n")[2], {})  # noqa: S102 - as a reader pastes it
    *_, told, first = capsys.readouterr().out.splitlines()
    assert told == "10 of 12 values are beyond their fences"
    assert first == "the first at [0, 2] [1, 0] [1, 1] [1, 2] [2, 0]"
