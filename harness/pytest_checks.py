"""What the tests of `harness.pytest_plugin` ask of a verdict; imported when a candidate is given."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from grok_conformance.harness.contract import split_tap, tap_names, tap_specs
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.known_deviations import known_deviations, with_outdated
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.report.explanation import explain
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates

Check = Callable[[CandidateVerdict], str]
"""Returns why a test fails, an empty string where it passes."""


def judge(name: str, pattern: str, waivers: Path | None) -> CandidateVerdict:
    """Run and judge a candidate over the golden cases that match, its known deviations in a file of waivers.

    Raises UnknownCandidateError and FileError.
    """
    golden = open_golden(GOLDEN)
    candidate, groups, known = find_candidate(name), read_groups(golden, pattern), known_deviations(waivers, golden)
    with tempfile.TemporaryDirectory() as scratch:
        (judgement,) = run_candidates(
            [candidate], groups, golden.manifest.suite, Path(scratch), Limits(), waivers=known
        )
    return with_outdated(judgement.verdict, known, golden)


def checks(name: str, pattern: str, waivers: Path | None) -> dict[str, Check]:
    """Return the check of every test by name: the cases that match, then their operations, per compute dtype.

    Where a file of waivers is given a last one asks whether all are still needed. Raises UnknownCandidateError for a
    candidate that cannot be found, FileError where no case matches or a waiver is wrong.
    """
    find_candidate(name)
    golden = open_golden(GOLDEN)
    groups = read_groups(golden, pattern)
    known_deviations(waivers, golden)
    operations = {(split_tap(tap)[1], group.fprop_dtype) for group in groups for tap in tap_names(group.preset.config)}
    rows = [(spec.operation, dtype) for spec in tap_specs() for dtype in ("float32", "bfloat16")]
    found = {case.id: case_check(case.id) for group in groups for case in group.cases} | {
        f"{operation}[{dtype}]": operation_check(operation, dtype)
        for operation, dtype in rows
        if (operation, dtype) in operations
    }
    return found | ({"waivers": waivers_check} if waivers else {})


def case_check(case_id: str) -> Check:
    """Return the check that a case passes."""

    def check(verdict: CandidateVerdict) -> str:
        (case,) = (case for case in verdict.cases if case.case == case_id)
        return "" if case.status in PASSING else f"{case.status}: {case.reason}"

    return check


def waivers_check(verdict: CandidateVerdict) -> str:
    """Check that every waiver is still in force and still needed."""
    return "\n".join(verdict.outdated)


def operation_check(operation: str, dtype: str) -> Check:
    """Return the check that an operation passes over all cases; it is skipped where the candidate does not show it."""

    def check(verdict: CandidateVerdict) -> str:
        rows = [row for row in verdict.operations if (row.operation, row.fprop_dtype) == (operation, dtype)]
        if not rows:
            pytest.skip("not shown; what lies around it is checked as one")
        return "" if rows[0].status in PASSING else explain(verdict, rows)

    return check
