"""What a port's tests ask of its verdict: a check per case, and per operation and compute dtype."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.pytest_checks import case_check, checks, operation_check, waivers_check
from grok_conformance.harness.running.registry import UnknownCandidateError
from tests.harness.report.verdicts import CASE, FAILING, PASSING, verdict


def test_there_is_a_check_per_case_and_per_operation_and_dtype() -> None:
    found = checks("numpy_float64", "stress/*.float32", None)
    assert "stress/prefill/saturated_cap.float32" in found
    assert "moe.norm[float32]" in found
    assert not [name for name in found if name.endswith("[bfloat16]")]
    assert not [name for name in found if name.startswith("dense.")]


def test_what_cannot_be_judged_is_refused_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UnknownCandidateError, match="numpy_flaot64"):
        checks("numpy_flaot64", "*", None)
    with pytest.raises(FileError, match="strees"):
        checks("numpy_float64", "strees/*", None)
    (tmp_path / "known.toml").write_text("[[deviation]]")
    with pytest.raises(FileError, match=r"known\.toml"):
        checks("numpy_float64", "*", tmp_path / "known.toml")


def test_a_check_says_nothing_of_what_passes_and_why_it_fails() -> None:
    assert case_check(CASE)(verdict(PASSING)) == ""
    assert case_check(CASE)(verdict(FAILING)) == "fail: too far"
    assert operation_check("attention.query", "bfloat16")(verdict(PASSING)) == ""
    assert "12.5 times" in operation_check("attention.key", "bfloat16")(verdict(FAILING))
    assert waivers_check(verdict(PASSING)) == ""


def test_an_operation_that_is_not_shown_is_skipped() -> None:
    with pytest.raises(pytest.skip.Exception):
        operation_check("moe.norm", "bfloat16")(verdict(PASSING))
