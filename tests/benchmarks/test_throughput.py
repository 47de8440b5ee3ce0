from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from harness.report.files import conformance_digest, report_of, write_report_json
from harness.verdict import CandidateVerdict, CaseVerdict, Status
from harness.weights import WeightProblem
from tests.benchmarks.throughput import NUM_DIGITS, Entry, conformance_entries
from tests.harness.honest_port import golden
from tests.harness.test_report import FAILING, PASSING, verdict


def entries(folder: Path, found: CandidateVerdict) -> dict[str, Entry]:
    """Return what the benchmark reads from the report of a verdict, by compute dtype."""
    write_report_json(folder / "run.json", report_of([found], golden()))
    return {entry.dtype: entry for entry in conformance_entries(folder / "run.json")}


def statuses(folder: Path, found: CandidateVerdict) -> tuple[str, str]:
    each = entries(folder, found)
    return each["bfloat16"].verdict, each["float32"].verdict


def case(dtype: str, status: Status) -> CaseVerdict:
    return CaseVerdict(case=f"unequal/prefill/padded_batch.{dtype}", status=status)


def test_every_result_carries_the_digest_by_which_the_harness_names_the_run(tmp_path: Path) -> None:
    found = verdict(PASSING)
    for entry in entries(tmp_path, found).values():
        assert entry.digest == conformance_digest(found)[:NUM_DIGITS]


@pytest.mark.parametrize("status", ["fail", "unsupported", "error", "inconclusive"])
def test_the_verdict_in_a_dtype_is_that_of_its_cases_alone(status: Status, tmp_path: Path) -> None:
    found = verdict(case("bfloat16", status), case("float32", "pass"))
    assert statuses(tmp_path, found) == (status, "pass")


def test_a_dtype_without_a_case_is_missing(tmp_path: Path) -> None:
    assert statuses(tmp_path, verdict(PASSING)) == ("pass", "missing")


def test_an_operation_that_fails_over_all_its_cases_fails_the_dtype_though_each_case_passes(tmp_path: Path) -> None:
    found = verdict(PASSING)
    rows = tuple(replace(row, status="fail") for row in verdict(FAILING).operations)
    assert statuses(tmp_path, replace(found, operations=rows)) == ("fail", "missing")


def test_weights_that_are_not_the_stored_ones_fail_every_dtype(tmp_path: Path) -> None:
    found = verdict(case("bfloat16", "pass"), case("float32", "pass"))
    wrong = (WeightProblem(preset="unequal", tensor="w", problem="differs"),)
    assert statuses(tmp_path, replace(found, weights=wrong)) == ("fail", "fail")
