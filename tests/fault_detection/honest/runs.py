"""The judge that users run, over ways of the zoo: what each was told, and whether that is right."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase as fnmatch

from grok_conformance.harness.judging.groups import Group, read_groups, run_size
from grok_conformance.harness.judging.judge import HonestRuns, judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.running.answers import Answer
from tests.fault_detection.honest.way import Way, taps_of
from tests.fault_detection.honest_runs import NUM_CASES, PRESETS, honest_group
from tests.harness.honest_port import golden

HONEST_RUNS: HonestRuns = {}
"""Shared by all ways: they have cases and mostly routes in common."""


@dataclass(frozen=True)
class Told:
    """What one way was told in one compute dtype.

    `plan` maps operations to the rounding that was named there; `failing` has the worst measured / allowed of those
    that failed, `faults` what they were diagnosed as.
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
    return Told(
        way=way.id,
        mark=way.mark,
        dtype=dtype,
        num_cases=len(verdict.cases),
        num_passed=sum(case.status in PASSING for case in verdict.cases),
        summary=verdict.summary,
        plan=plan,
        failing=failing,
        faults=tuple(faults),
        as_marked=verdict.passed if way.mark in ("honest", "quirk") else not verdict.passed,
        as_planned=way.fault in faults if way.fault else set(plan) == named,
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
