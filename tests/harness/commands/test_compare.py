"""`compare`: exit status 1 beyond what is accepted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.formats.tensors import write_tensors
from tests.harness.sessions.two_runs import TAPS


@pytest.mark.parametrize(("roundings", "status"), [("0", 1), ("3", 1), ("5", 0)])
def test_compare_exits_with_1_beyond_what_is_accepted(
    roundings: str, status: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tensors(tmp_path / "a", TAPS)
    write_tensors(tmp_path / "b", {**TAPS, "call0/logits": TAPS["call0/logits"] * np.float32(1 + 2.0**-22)})
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b"), "--roundings", roundings]) == status
    output = capsys.readouterr().out
    assert "1 of 2 taps with the same values" in output
    assert ("first call0/logits" in output) == (status == 1)
