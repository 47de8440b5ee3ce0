"""Writes golden fixtures: what the canonical JAX model gives for every tap of every case.

The model runs as the candidate `reference`, in a job folder like any other, and its answers become golden only after
they have passed the checks that a port must pass: expected is itself gated against exact.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.cases.suite import PRESETS, make_preset, suite_cases
from grok_conformance.harness.contract import Array
from grok_conformance.harness.golden.manifest import Manifest
from grok_conformance.harness.golden.provenance import PRECISION, record_provenance, specification_digest
from grok_conformance.harness.golden.reading import FixtureError, case_ids, open_golden, read_taps
from grok_conformance.harness.golden.writing import write_golden
from grok_conformance.harness.judging.groups import Group, grouped, run_size
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.measure.words import times
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import read_job
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.running.runner import run_jobs
from grok_conformance.harness.sessions.run import Progress, write_jobs

SUITE = "1.2.0"
"""Version of golden/v1: MAJOR format or meaning of a tap, MINOR coverage, PATCH a wrong value fixed."""

CANONICAL = "reference"


def suite_groups() -> tuple[Group, ...]:
    """Return the suite's cases grouped by preset and compute dtype, with no golden taps yet."""
    presets = {name: make_preset(name) for name in PRESETS}
    return grouped(suite_cases(), presets, lambda _case_id: {})


def capture(
    directory: Path,
    groups: Sequence[Group],
    *,
    replace: Collection[str] = (),
    add: bool = False,
    on_progress: Progress = lambda _name, _case: None,
) -> Manifest:
    """Run the canonical model over the suite and write the golden set whole.

    `replace` holds globs of presets and cases of a present set that may change. With `add` only the cases that the
    present set lacks are run, so that a set grows on another platform too. Raises FixtureError, and then nothing has
    changed.
    """
    return write_golden(
        directory,
        suite=SUITE,
        provenance=record_provenance(specification_digest(), PRECISION),
        presets=list({group.preset.name: group.preset for group in groups}.values()),
        cases=captured(groups, stored_taps(directory, groups) if add else {}, on_progress),
        replace=replace,
    )


def captured(
    groups: Sequence[Group], present: Mapping[str, Mapping[str, Array]], on_progress: Progress
) -> Iterator[tuple[Case, Mapping[str, Array]]]:
    """Yield every case with its taps: those present by case id, or what the canonical model gives and the gate passes.

    The model runs when the first case is asked for: by then the writer holds the folder, and no other capture does.
    """
    missing = lacking(groups, present)
    with tempfile.TemporaryDirectory() as scratch:
        answers = canonical_answers(missing, Path(scratch), on_progress)
        gate(missing, answers)
        taps = {**present, **{case_id: answer.taps for each in answers for case_id, answer in each.items()}}
        yield from ((case, taps[case.id]) for group in groups for case in group.cases)


def stored_taps(directory: Path, groups: Sequence[Group]) -> dict[str, Mapping[str, Array]]:
    """Return the taps that a golden set already holds for the cases of some groups, by case id."""
    golden = open_golden(directory)
    wanted = {case.id for group in groups for case in group.cases}
    return {case_id: read_taps(golden, case_id) for case_id in case_ids(golden) if case_id in wanted}


def lacking(groups: Sequence[Group], present: Collection[str]) -> list[Group]:
    """Return the groups without the cases that are present, and none that would be empty."""
    left = [dataclasses.replace(g, cases=tuple(c for c in g.cases if c.id not in present)) for g in groups]
    return [group for group in left if group.cases]


def canonical_answers(groups: Sequence[Group], folder: Path, on_progress: Progress) -> list[Mapping[str, Answer]]:
    """Run the canonical model over some groups below a folder, and return its answers group by group."""
    jobs = write_jobs(groups, SUITE, folder / "jobs")
    outs = [folder / "answers" / job.name for job in jobs]
    run_jobs(
        find_candidate(CANONICAL),
        list(zip(jobs, outs, strict=True)),
        Limits(),
        lambda case: on_progress(CANONICAL, case),
    )
    return [read_answer(out, read_job(job)) for job, out in zip(jobs, outs, strict=True)]


def gate(groups: Sequence[Group], answers: Sequence[Mapping[str, Answer]]) -> None:
    """Raise FixtureError unless every answer of the canonical model passes every check against exact."""
    expected: dict[str, Mapping[str, Array]] = {
        case_id: answer.taps for each in answers for case_id, answer in each.items()
    }
    gated = [Group(g.preset, g.fprop_dtype, g.cases, expected.__getitem__) for g in groups]
    judged = judge_candidate(gated, answers, run_size(groups), {})
    verdict = summarise(CANONICAL, gated, answers, judged, 0.0)
    for where, why in objections(verdict):
        raise FixtureError(f"{where}: the canonical model is not conforming, {why}; nothing was written")


def objections(verdict: CandidateVerdict) -> list[tuple[str, str]]:
    """Return where a verdict is no pass as published, and why.

    Operations may fail together though every case passes.
    """
    found = [(case.case, case.reason) for case in verdict.cases if case.status != "pass"]
    found += [
        (
            f"{row.operation} in {row.fprop_dtype}",
            f"{times(max(one.ratio for one in row.systematic))} times the fence over all cases together",
        )
        for row in verdict.operations
        if row.status == "fail" and not row.cases_at_fault
    ]
    found += [
        (f"{row.operation} in {row.fprop_dtype}", f"it rounds otherwise than published: {row.alternative}")
        for row in verdict.rounding_elsewhere
    ]
    found += [(f"{problem.preset}: {problem.tensor}", problem.problem) for problem in verdict.weights]
    if not found and verdict.status != "pass":
        found.append((verdict.name, f"its status is {verdict.status} at level {verdict.level}"))
    return found
