"""The list of cases on the page."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from grok_conformance.harness.report.case_rows import case_rows, counted
from grok_conformance.harness.report.files import report_of
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import CASE, CRASHED, FAILING, OTHER, PASSING, verdict


def candidate(*cases: Any) -> dict[str, Any]:
    report = json.loads(json.dumps(report_of([verdict(*cases)], golden())))
    found: dict[str, Any] = report["candidates"][0]
    return found


def test_cases_that_do_not_pass_come_first_with_the_operations_at_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])  # where the tests run in several processes, they have other words
    failing, passing = case_rows(candidate(PASSING, replace(FAILING, case=OTHER)))
    assert (failing.case, failing.status, passing.case) == (OTHER, "fail", CASE)
    assert failing.operations == ["attention.key", "output", "logits"]
    assert passing.operations == []
    assert failing.command == f"pytest --conformance-candidate port --conformance-case {OTHER}"


def test_a_case_without_an_operation_at_fault_tells_its_reason_and_what_it_hangs_on() -> None:
    (crashed,) = case_rows(candidate(CRASHED))
    assert (crashed.status, crashed.told, crashed.operations) == ("error", "killed by signal 11", [])
    (hanging,) = case_rows(candidate(replace(PASSING, status="fail", reason="other bits", cause="history")))
    assert hanging.told == "hangs on history: other bits"


def test_a_case_that_is_known_to_be_declined_counts_as_waived() -> None:
    (declined,) = case_rows(candidate(replace(CRASHED, status="unsupported", waived=("no pads",))))
    assert (declined.status, declined.is_passing) == ("waived", True)


def test_the_statuses_are_counted() -> None:
    assert counted(case_rows(candidate(PASSING, FAILING, CRASHED))) == {"fail": 1, "error": 1, "pass": 1}
