"""What the tests of `harness.pytest_plugin` ask of a verdict; imported when a candidate is given."""

from __future__ import annotations

import fcntl
import pickle
import tempfile
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from grok_conformance.harness.cases.drawn import drawn_as, stored_id
from grok_conformance.harness.contract import DTYPES, split_tap, tap_names, tap_specs
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.known_deviations import known_deviations, with_outdated
from grok_conformance.harness.judging.narrowing import Narrow, narrow_to
from grok_conformance.harness.judging.selection import EVERY, Patterns, asked_groups, each_once
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.judging.waivers import waivers_of
from grok_conformance.harness.report.explanation import explain, explain_case
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates


@dataclass(frozen=True)
class Check:
    """What one test asks: that a case passes, that an operation does in one compute dtype, or of neither the waivers.

    Called with a verdict it returns why the test fails, an empty string where it passes.
    """

    case: str = ""
    operation: str = ""
    dtype: str = ""

    def __call__(self, verdict: CandidateVerdict) -> str:
        """Return why the test fails; it is skipped where the candidate does not show the operation."""
        if self.case:
            return case_problem(verdict, self.case)
        return operation_problem(verdict, self.operation, self.dtype) if self.operation else "\n".join(verdict.outdated)


def case_problem(verdict: CandidateVerdict, case_id: str) -> str:
    """Return why a case does not pass, and how to see it again."""
    (case,) = (case for case in verdict.cases if case.case == case_id)
    return "" if case.status in PASSING or case.does_not_count else explain_case(verdict, case)


def operation_problem(verdict: CandidateVerdict, operation: str, dtype: str) -> str:
    """Return why an operation does not pass over all cases of a compute dtype; a crash before it is shown is why, too.

    The test is skipped where the candidate does not show the operation, or declines.
    """
    rows = [row for row in verdict.operations if (row.operation, row.fprop_dtype) == (operation, dtype)]
    if rows:
        return "" if rows[0].status in PASSING else explain(verdict, rows)
    crashed = [case for case in verdict.cases if case.case.endswith(dtype) and case.status in ("error", "missing")]
    if crashed:
        return f"{crashed[0].status}: {crashed[0].reason}"
    pytest.skip("not shown; what lies around it is checked as one")


def node_name(case_id: str) -> str:
    """Return what the test of a case is called in every session, whatever the seed and the dtype of what is drawn."""
    drawn = drawn_as(case_id)
    if drawn is None:
        return case_id
    name, _, dtype = stored_id(case_id).rpartition(".")
    return f"{name}~redrawn" if drawn[0] == "redrawn" else f"reweighted[{dtype}]"


def groups_of(golden: Golden, patterns: Patterns, seed: int) -> tuple[Group, ...]:
    """Return what is judged: what patterns match, and what a seed draws where that is everything."""
    return asked_groups(golden, patterns, seed=seed, drawing=EVERY in each_once(patterns))


def checks(name: str, patterns: Patterns, seed: int, waivers: Path | None) -> dict[str, Check]:
    """Return the check of every test by name: the cases that match, then their operations, per compute dtype.

    Where a file of waivers is given a last one asks whether all are still needed. Raises UnknownCandidateError for a
    candidate that cannot be found, FileError where no case matches or a waiver is wrong.
    """
    find_candidate(name)
    golden = open_golden(GOLDEN)
    groups = groups_of(golden, patterns, seed)
    known_deviations(waivers, golden)
    operations = {(split_tap(tap)[1], group.fprop_dtype) for group in groups for tap in tap_names(group.preset.config)}
    rows = [(spec.operation, dtype) for spec in tap_specs() for dtype in DTYPES]
    found = {node_name(case.id): Check(case=case.id) for group in groups for case in group.cases} | {
        f"{operation}[{dtype}]": Check(operation=operation, dtype=dtype)
        for operation, dtype in rows
        if (operation, dtype) in operations
    }
    return found | ({"waivers": Check()} if waivers else {})


def judge(  # what the plugin was given, and what is selected
    name: str,
    patterns: Patterns,
    seed: int,
    waivers: Path | None,
    asked: Collection[Check],
    *,
    quick: bool = False,
) -> CandidateVerdict:
    """Run and judge a candidate as far as some checks need it, its known deviations in a file of waivers.

    One that is narrowed is to be `quick`, without what would be drawn for it alone. Raises UnknownCandidateError and
    FileError.
    """
    golden = open_golden(GOLDEN)
    candidate, known = find_candidate(name), known_deviations(waivers, golden)
    groups, narrow = needed(groups_of(golden, patterns, seed), asked, whole=bool(waivers_of(known, name)))
    if quick and narrow:
        groups, narrow = needed(asked_groups(golden, patterns, seed=seed, drawing=False), asked, whole=False)
    with tempfile.TemporaryDirectory() as scratch:
        (judgement,) = run_candidates(
            [candidate], groups, golden.manifest.suite, Path(scratch), Limits(), waivers=known, narrow=narrow
        )
    return with_outdated(judgement.verdict, known, golden)


def needed(groups: Sequence[Group], asked: Collection[Check], *, whole: bool) -> tuple[tuple[Group, ...], Narrow]:
    """Return the cases that some checks need, and what the run is narrowed to.

    Cases alone need nothing else, operations alone no more than the local check of all cases of their compute dtype;
    waivers hold for a `whole` run only, and both together need one.
    """
    cases = {check.case for check in asked if check.case}
    operations = list(dict.fromkeys(check.operation for check in asked if check.operation))
    if whole or Check() in asked or (cases and operations):
        return tuple(groups), Narrow()
    dtypes = {check.dtype for check in asked if check.dtype}
    kept = [
        replace(group, cases=tuple(case for case in group.cases if case.id in cases or group.fprop_dtype in dtypes))
        for group in groups
    ]
    kept = [group for group in kept if group.cases]
    return tuple(kept), narrow_to(operations, (), kept)


def judged_once(path: Path, judged: Callable[[], CandidateVerdict]) -> CandidateVerdict:
    """Return the verdict that a file keeps for all workers of a session: the first that asks judges, others wait."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            made = path.with_suffix(".part")
            made.write_bytes(pickle.dumps(judged()))
            made.replace(path)
        verdict: CandidateVerdict = pickle.loads(path.read_bytes())  # noqa: S301 - written by a worker beside this one
        return verdict
