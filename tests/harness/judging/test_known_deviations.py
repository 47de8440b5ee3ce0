"""Waivers in force: those of the built-in candidates and of the user's file, and those that are needed no longer."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.known_deviations import known_deviations, with_outdated
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, by_operation
from grok_conformance.harness.judging.waivers import builtin_waivers
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import golden

CASE = "unequal/prefill/padded_batch.float32"
FILE = """
[[deviation]]
candidate = "port"
case = "CASE"
tap = "moe.norm"
fault = "norm_scale_plus_one"
reason = "as Gemma has it"
reference = "a page"
expires = "2999-01-01"
"""


def written(folder: Path, case: str) -> Path:
    (folder / "known.toml").write_text(FILE.replace("CASE", case))
    return folder / "known.toml"


def verdict(*cases: CaseVerdict) -> CandidateVerdict:
    rows = by_operation(cases, {CASE: "float32"}, {})
    return CandidateVerdict(name="port", version="1", level="layers", cases=cases, operations=rows, seconds=0.0)


def test_a_user_s_waivers_are_added_to_those_of_built_in_candidates(tmp_path: Path) -> None:
    assert known_deviations(None, golden()) == builtin_waivers()
    assert len(known_deviations(written(tmp_path, "*"), golden())) == len(builtin_waivers()) + 1


def test_a_glob_that_matches_no_case_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="strees"):
        known_deviations(written(tmp_path, "strees/*"), golden())


def test_a_waiver_that_a_run_did_not_need_is_outdated(tmp_path: Path) -> None:
    waivers = known_deviations(written(tmp_path, CASE), golden())
    right = verdict(CaseVerdict(case=CASE, status="pass", comparisons=(Comparison(0, "layers.00.moe.norm", 9),)))
    (outdated,) = with_outdated(right, waivers, golden()).outdated
    assert "moe.norm" in outdated


def test_what_did_not_run_says_nothing_of_its_waivers(tmp_path: Path) -> None:
    waivers = known_deviations(written(tmp_path, "*"), golden())
    absent = verdict(CaseVerdict(case=CASE, status="unsupported"))
    assert with_outdated(absent, waivers, golden()) is absent
