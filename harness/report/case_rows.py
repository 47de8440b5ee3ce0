"""The list of cases that the page shows: what became of each, which operations are at fault in it, how to see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.judging.verdict import PASSING, UNCOUNTED
from grok_conformance.harness.report.figures import ratio_of
from grok_conformance.harness.report.reproduction import reproduce


@dataclass(frozen=True)
class CaseRow:
    """One case: `told` says why it did not pass, `operations` are those at fault in it, `seconds` the candidate's."""

    case: str
    status: str
    told: str
    operations: Sequence[str]
    seconds: str
    command: str

    @property
    def is_passing(self) -> bool:
        """Whether it counts as a pass."""
        return self.status in PASSING


def case_rows(row: Mapping[str, Any]) -> list[CaseRow]:
    """Return the cases of one candidate of a JSON report: those that do not pass first, else as they were run."""
    rows = [
        CaseRow(
            case=case["case"],
            status="waived" if case["waived"] and case["status"] in UNCOUNTED else case["status"],
            told=told(case),
            operations=at_fault(case),
            seconds="" if case["seconds"] is None else f"{case['seconds']:.2f}",
            command=reproduce(row["name"], case["case"]),
        )
        for case in row["cases"]
    ]
    return sorted(rows, key=lambda each: each.is_passing)


def told(case: Mapping[str, Any]) -> str:
    """Return why a case did not pass and what that hangs on, or its known deviations."""
    cause = f"hangs on {case['cause']}: " if case["cause"] else ""
    return f"{cause}{case['reason']}" or "; ".join(case["waived"])


def at_fault(case: Mapping[str, Any]) -> list[str]:
    """Return the operations beyond their fence in a case, in the order of the forward pass."""
    wrong = [each["tap"] for each in case["comparisons"] if not each["waived"] and not ratio_of(each) <= 1]
    return list(dict.fromkeys(split_tap(tap)[1] for tap in wrong))


def counted(rows: Sequence[CaseRow]) -> dict[str, int]:
    """Return how many cases there are of each status, the worst first as they come."""
    statuses = [each.status for each in rows]
    return {status: statuses.count(status) for status in dict.fromkeys(statuses)}
