"""The judge that users run, over ways of the zoo: what each was told, and whether that is right."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch
from pathlib import Path

from grok_conformance.harness.judging.groups import Group, read_groups, run_size
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import Answer
from tests.fault_detection.honest.way import Way, taps_of
from tests.fault_detection.honest_suites import NUM_CASES, PRESETS, honest_group
from tests.fault_detection.rates import clopper_pearson
from tests.harness.honest_port import golden

PAGE = Path(__file__).resolve().parents[1] / "WAYS.md"

PASSING_MARKS = ("honest", "quirk")

HONEST_RUNS: HonestRuns = {}
"""Shared by all ways: they have cases and mostly routes in common."""


@dataclass(frozen=True)
class Told:
    """What one way was told in one compute dtype.

    Cases that hidden choices leave open are not among its `num_cases`. `plan` maps operations to the rounding that was
    named there; `failing` has the worst measured / allowed of those that failed, `faults` what they were diagnosed as.
    """

    way: str
    mark: str
    dtype: str
    num_cases: int
    num_passed: int
    summary: str
    plan: Mapping[str, str]
    failing: Mapping[str, float]
    faults: tuple[str, ...]
    as_marked: bool
    as_planned: bool
    seconds: float


@functools.cache
def groups_of(pattern: str, dtype: str, draw: int | None = None) -> tuple[Group, ...]:
    """Return the groups of the cases that match, in one compute dtype: the golden ones, or those of a fresh draw."""
    if draw is None:
        return read_groups(golden(), pattern, dtype)
    drawn = (honest_group(preset, dtype, draw, NUM_CASES) for preset in PRESETS)
    chosen = [replace(group, cases=tuple(x for x in group.cases if fnmatch(x.id, pattern))) for group in drawn]
    return tuple(group for group in chosen if group.cases)


def verdict_of(way: Way, groups: Sequence[Group]) -> CandidateVerdict:
    """Run a way over some groups in this process, and judge it as a run does."""
    answers = [
        {
            case.id: Answer(status="answered", info=way.shown, taps=taps_of(way, group.preset, case))
            for case in group.cases
        }
        for group in groups
    ]
    judged = judge_candidate(groups, answers, run_size(groups), HONEST_RUNS)
    return summarise(way.id, groups, answers, judged, 0.0)


def tell(way: Way, dtype: str, groups: Sequence[Group]) -> Told:
    """Judge a way over some groups of one compute dtype."""
    began = time.monotonic()
    verdict = verdict_of(way, groups)
    plan = {row.operation: row.alternative for row in verdict.operations if row.alternative}
    failing = {row.operation: row.worst.ratio for row in verdict.operations if row.status == "fail"}
    faults = sorted({name for row in verdict.operations if row.diagnosis for name in row.diagnosis.faults})
    named = {operation for operation in way.plan if any(row.operation == operation for row in verdict.operations)}
    as_planned = set(plan) <= named if way.untold else set(plan) == named
    return Told(
        way=way.id,
        mark=way.mark,
        dtype=dtype,
        num_cases=sum(not case.does_not_count for case in verdict.cases),
        num_passed=sum(case.status in PASSING for case in verdict.cases),
        summary=verdict.summary,
        plan=plan,
        failing=failing,
        faults=tuple(faults),
        as_marked=verdict.passed if way.mark in PASSING_MARKS else not verdict.passed,
        as_planned=way.fault in faults if way.fault else as_planned,
        seconds=time.monotonic() - began,
    )


def line_of(told: Told) -> str:
    """Return what a way was told, in one line."""
    worst = max(told.failing.items(), key=lambda item: item[1], default=("", 0.0))
    said = "; ".join(f"{operation}: {words}" for operation, words in told.plan.items())
    parts = [
        f"{told.mark:8} {told.way:28} {told.dtype:8} {told.num_passed:2} of {told.num_cases:2} {told.summary}",
        f"({'as marked' if told.as_marked else 'WRONG'}{'' if told.as_planned else ', not as planned'})",
        f"{worst[0]} {worst[1]:.4g}" if worst[0] else "",
        f"[{said}]" if said else "",
        f"<{', '.join(told.faults)}>" if told.faults else "",
        f"{told.seconds:.0f} s",
    ]
    return " ".join(part for part in parts if part)


def counts(found: Sequence[Told]) -> str:
    """Return how many ways were judged as they are marked and named, and how many honest runs failed."""
    lines = []
    for mark, dtype in dict.fromkeys((each.mark, each.dtype) for each in found):
        own = [each for each in found if (each.mark, each.dtype) == (mark, dtype)]
        right, planned = (sum(getattr(each, name) for each in own) for name in ("as_marked", "as_planned"))
        what = "with exactly the right plan named" if mark in PASSING_MARKS else "with the right fault named"
        lines.append(f"{mark} in {dtype}: {right} of {len(own)} judged as marked, {planned} {what}")
    honest = [each for each in found if each.mark in PASSING_MARKS]
    runs = sum(each.num_cases for each in honest)
    failed = sum(each.num_cases - each.num_passed for each in honest)
    if runs:
        _, upper = clopper_pearson(failed, runs)
        lines.append(f"honest runs failed: {failed} of {runs}, upper 95 % bound {upper:.2%}")
    lines.append(f"{sum(each.seconds for each in found):.0f} s for {len(found)} ways and compute dtypes")
    return "\n".join(lines)


def page(found: Sequence[Told]) -> str:
    """Return what every way was told as WAYS.md."""
    lines = [
        "# What honest and wrong ways are told",
        "",
        "Written by `python -m tests.fault_detection.honest --write`, and checked by `nox -s mutation`. A way is a",
        "port that computes as an engine does; a run is one of them in one case. The list is this project's own. Cases",
        "that hidden choices of experts leave open are not counted.",
        "",
        *(f"* {line}" for line in counts(found).splitlines()[:-1]),
        "",
        "| mark | way | dtype | cases passed | as marked | named | plan or fault |",
        "|---|---|---|---|---|---|---|",
    ]
    for told in found:
        said = "; ".join(f"{operation}: {words}" for operation, words in told.plan.items()) or ", ".join(told.faults)
        marked, named = ("yes" if right else "no" for right in (told.as_marked, told.as_planned))
        lines.append(
            f"| {told.mark} | {told.way} | {told.dtype} | {told.num_passed} of {told.num_cases} | {marked} | {named} "
            f"| {said} |"
        )
    return "\n".join(lines) + "\n"


def misjudged(found: Sequence[Told]) -> list[str]:
    """Return the ways that were not judged as they are marked."""
    return [f"the {told.mark} way {told.way} in {told.dtype}: {told.summary}" for told in found if not told.as_marked]
