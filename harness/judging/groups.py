"""The cases of one preset in one compute dtype, read and counted: what one job holds and one judge is given."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.checks.evidence import call_sizes
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.golden.reading import FixtureError, Golden, case_ids, read_case, read_preset, read_taps
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.running.jobs import read_job


@dataclass(frozen=True)
class Group:
    """The cases of one preset in one compute dtype, with their golden taps: what one job holds.

    `expected(case id)` gives the golden taps by `call0/TAP`.
    """

    preset: Preset
    fprop_dtype: str
    cases: tuple[Case, ...]
    expected: Callable[[str], Mapping[str, Array]]
    graph: ModelGraph = GROK_1


def read_groups(golden: Golden, pattern: str = "*", dtype: str = "*") -> tuple[Group, ...]:
    """Read the golden cases that a glob pattern matches, grouped by preset and compute dtype; raises FixtureError.

    `dtype` keeps those of one compute dtype.
    """
    cases = [read_case(golden, case_id) for case_id in case_ids(golden, pattern)]
    cases = [case for case in cases if dtype in ("*", case.fprop_dtype)]
    if not cases:
        raise FixtureError(f"{golden.directory}: no case {pattern!a} computes in {dtype}")
    presets = {name: read_preset(golden, name) for name in sorted({case.preset for case in cases})}
    keys = sorted({(case.preset, case.fprop_dtype) for case in cases})
    return tuple(
        Group(
            presets[preset],
            dtype,
            tuple(case for case in cases if (case.preset, case.fprop_dtype) == (preset, dtype)),
            lambda case_id: read_taps(golden, case_id),
        )
        for preset, dtype in keys
    )


def run_size(groups: Sequence[Group]) -> int:
    """Return how many elements a run over some groups compares: the number of tests, which sets λ."""
    return sum(
        math.prod(call_sizes(config, case, call)[axis] for axis in group.graph.specs[split_tap(tap)[1]].axes)
        for group in groups
        for config in [group.preset.config]
        for case in group.cases
        for call in range(len(case.calls))
        for tap in group.graph.tap_names(config)
    )


def job_pairs(job_dir: Path, out_dir: Path) -> list[tuple[Path, Path]]:
    """Return (job, answers) folders: the two given, or those of the same name inside them."""
    jobs = sorted(path.parent for path in job_dir.glob("*/job.json"))
    return [(job, out_dir / job.name) for job in jobs] or [(job_dir, out_dir)]


def group_of_job(golden: Golden, job_dir: Path) -> Group:
    """Return the golden cases of a job; raises FixtureError where the golden set does not hold them."""
    job = read_job(job_dir)
    if job.suite != golden.manifest.suite:
        raise FixtureError(
            f"{job_dir}: made from suite {job.suite}, but {golden.directory} holds {golden.manifest.suite}: "
            "write the job again"
        )
    wanted = [case.id for case in job.cases]
    for group in read_groups(golden):
        cases = tuple(case for case in group.cases if case.id in wanted)
        if (group.preset.name, group.fprop_dtype) == (job.preset, job.fprop_dtype) and len(cases) == len(wanted):
            return replace(group, cases=cases)
    raise FixtureError(f"{job_dir}: names cases that {golden.directory} does not hold: write the job again")
