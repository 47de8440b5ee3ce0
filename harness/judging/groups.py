"""The cases of one preset in one compute dtype, read and counted: what one job holds and one judge is given."""

from __future__ import annotations

import fnmatch
import functools
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.cases.drawn import drawn_as, random_of, redraw, reweight, stored_id
from grok_conformance.harness.cases.ladder import rungs
from grok_conformance.harness.cases.probes import PREFIX, PROBES, make_probe, probe_cases
from grok_conformance.harness.cases.sweeps import PREFIX as SWEEP
from grok_conformance.harness.cases.sweeps import SWEEPS, sweeps
from grok_conformance.harness.checks.evidence import call_sizes
from grok_conformance.harness.contract import DTYPES, Array, split_tap
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.audit import check_case_fits
from grok_conformance.harness.golden.reading import FixtureError, Golden, case_ids, read_case, read_preset, read_taps
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import walk
from grok_conformance.harness.running.jobs import read_job


@dataclass(frozen=True)
class Group:
    """The cases of one preset in one compute dtype, with their golden taps: what one job holds.

    `expected(case id)` gives the golden taps by `call0/TAP`, nothing for a case that has none. Of the groups `by_turns`
    a candidate that compiles anew for every shape has one in each run.
    """

    preset: Preset
    fprop_dtype: str
    cases: tuple[Case, ...]
    expected: Callable[[str], Mapping[str, Array]]
    graph: ModelGraph = GROK_1
    by_turns: bool = False


def read_groups(golden: Golden, pattern: str = "*", dtype: str = "*") -> tuple[Group, ...]:
    """Read the golden cases that a glob pattern matches, grouped by preset and compute dtype; raises FixtureError.

    `dtype` keeps those of one compute dtype. A pattern that begins with `probe_` selects probes, which are drawn
    and not stored.
    """
    if pattern.startswith(PREFIX):
        return probe_groups(pattern, dtype)
    cases = [read_case(golden, case_id) for case_id in case_ids(golden, pattern)]
    cases = [case for case in cases if dtype in ("*", case.fprop_dtype)]
    if not cases:
        raise FixtureError(f"{golden.directory}: no case {pattern!a} computes in {dtype}")
    presets = {name: read_preset(golden, name) for name in sorted({case.preset for case in cases})}
    for case in cases:
        check_case_fits(golden, case, presets[case.preset])
    expected = {case.id: read_taps(golden, case.id) for case in cases}  # read now: a candidate may harm the files
    return grouped(cases, presets, expected.__getitem__)


def grouped(
    cases: Sequence[Case], presets: Mapping[str, Preset], expected: Callable[[str], Mapping[str, Array]]
) -> tuple[Group, ...]:
    """Return cases grouped by preset and compute dtype; `expected` gives the golden taps of a case."""
    keys = sorted({(case.preset, case.fprop_dtype) for case in cases})
    return tuple(
        Group(
            presets[preset],
            dtype,
            tuple(case for case in cases if (case.preset, case.fprop_dtype) == (preset, dtype)),
            expected,
        )
        for preset, dtype in keys
    )


def probe_groups(pattern: str, dtype: str = "*") -> tuple[Group, ...]:
    """Draw the probes that a glob pattern matches, grouped likewise; raises FixtureError where there are none.

    What is expected of a probe is what exact arithmetic gives, rounded to the dtypes of the taps.
    """
    cases = {case.id: case for case in probe_cases(pattern) if dtype in ("*", case.fprop_dtype)}
    if not cases:
        raise FixtureError(f"no probe matches {pattern!r}; there are {', '.join(PROBES)}")
    presets = {name: make_probe(name) for name in dict.fromkeys(case.preset for case in cases.values())}

    return tuple(
        Group(
            presets[name],
            dtype,
            tuple(case for case in cases.values() if (case.preset, case.fprop_dtype) == key),
            functools.partial(expected_of_probe, presets, cases),
        )
        for key in dict.fromkeys((case.preset, case.fprop_dtype) for case in cases.values())
        for name, dtype in [key]
    )


def expected_of_probe(presets: Mapping[str, Preset], cases: Mapping[str, Case], case_id: str) -> Mapping[str, Array]:
    """Return what exact arithmetic gives in a probe, rounded to the dtypes of the taps."""
    case, preset = cases[case_id], presets[cases[case_id].preset]
    kept = GROK_1.recorded_dtypes(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    return {
        tap_key(call, tap): value.astype(DTYPES[kept[split_tap(tap)[1]]]) for call, tap, _, value in walk(preset, case)
    }


def run_size(groups: Sequence[Group]) -> int:
    """Return how many elements a run over some groups compares: the number of tests, which sets λ."""
    return sum(
        math.prod(sizes[axis] for axis in group.graph.specs[split_tap(tap)[1]].axes)
        for group in groups
        for config in [group.preset.config]
        for case in group.cases
        for sizes in (call_sizes(config, case, call) for call in range(len(case.calls)))
        for tap in group.graph.tap_names(config)
    )


def job_pairs(job_dir: Path, out_dir: Path) -> list[tuple[Path, Path]]:
    """Return (job, answers) folders: the two given, or those of the same name inside them."""
    jobs = sorted(path.parent for path in job_dir.glob("*/job.json"))
    return [(job, out_dir / job.name) for job in jobs] or [(job_dir, out_dir)]


def group_of_job(golden: Golden, job_dir: Path) -> Group:
    """Return the cases of a job, stored or drawn; raises FixtureError where the golden set does not hold them."""
    job = read_job(job_dir)
    if job.preset.startswith(SWEEP) and (drawn := drawn_as(job.cases[0].id)) is not None:
        (group,) = sweep_groups(drawn[1], f"{job.preset}/*", job.cases[0].id.rpartition(".")[2])
        asked = {case.id for case in job.cases}
        return replace(group, cases=tuple(case for case in group.cases if case.id in asked))
    if job.suite != golden.manifest.suite and not job.preset.startswith(PREFIX):
        raise FixtureError(
            f"{job_dir}: made from suite {job.suite}, but {golden.directory} holds {golden.manifest.suite}: "
            "write the job again"
        )
    for group in read_groups(golden, f"{job.preset}/*"):
        stored = {case.id: case for case in group.cases}
        if (group.preset.name, group.fprop_dtype) == (job.preset, job.fprop_dtype) and {
            stored_id(case.id) for case in job.cases
        } <= set(stored):
            return group_again(group, [case.id for case in job.cases])
    raise FixtureError(f"{job_dir}: names cases that {golden.directory} does not hold: write the job again")


def group_again(group: Group, case_ids: Sequence[str]) -> Group:
    """Return a group with some of its cases, those drawn from it drawn once more as their ids say."""
    stored = {case.id: case for case in group.cases}
    preset, cases = group.preset, []
    for case_id in case_ids:
        case, drawn = stored[stored_id(case_id)], drawn_as(case_id)
        cases.append(case if drawn is None else redraw(case, group.preset.config, drawn[1], drawn[0]))
        if drawn is not None and drawn[0] == "reweighted":
            preset = reweight(group.preset, drawn[1])
    return replace(group, preset=preset, cases=tuple(cases), expected=stored_only(group))


def any_seed() -> int:
    """Return a seed that no earlier run need have had; it is short enough to be typed."""
    return secrets.randbelow(10**6)


def with_drawn(groups: Sequence[Group], seed: int) -> tuple[Group, ...]:
    """Add to some groups what a seed draws.

    Every case once more with other tokens, in one of its compute dtypes, in the same job as the stored one; and for
    each compute dtype one model with other weights. Probes stay as they were designed.
    """
    if any(group.preset.name.startswith(PREFIX) for group in groups):
        return tuple(groups)
    dtypes: dict[str, list[str]] = {}
    for group in groups:
        for case in group.cases:
            dtypes.setdefault(name_of(case), []).append(group.fprop_dtype)
    drawn = []
    for group in groups:
        chosen = [case for case in group.cases if group.fprop_dtype == one_of(dtypes[name_of(case)], case, seed)]
        twins = tuple(redraw(case, group.preset.config, seed) for case in chosen)
        drawn.append(replace(group, cases=(*group.cases, *twins), expected=stored_only(group)))
    drawn += [reweighted(groups, dtype, seed) for dtype in sorted({group.fprop_dtype for group in groups})]
    return with_optional(drawn)


def with_optional(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Make drawn cases optional that ask for a kind of call which no stored case of these groups has.

    A case drawn from a lone prefill also decodes. Where nobody asked for decoding, a port need not have it.
    """
    stored = [case for group in groups for case in group.cases if drawn_as(case.id) is None]
    kinds = {call.kind for case in stored for call in case.calls}

    def marked(case: Case) -> Case:
        beyond = bool(stored) and not kinds.issuperset(call.kind for call in case.calls)
        return replace(case, optional=case.optional or beyond)

    return tuple(replace(group, cases=tuple(map(marked, group.cases))) for group in groups)


def ladder_groups(seed: int, pattern: str = "*") -> tuple[Group, ...]:
    """Return the rungs of the ladder that a glob pattern matches, each a group without golden values.

    Raises FileError where it matches none.
    """
    found = [rung for rung in rungs(seed) if fnmatch.fnmatchcase(stored_id(rung.case.id), pattern)]
    if not found:
        raise FileError(
            f"no rung of the ladder matches {pattern!a}: they are called ladder_SIZE_BORDER/ladder/drawn.DTYPE"
        )
    return tuple(Group(rung.preset, rung.case.fprop_dtype, (rung.case,), nothing_expected) for rung in found)


def sweep_groups(seed: int, pattern: str = f"{SWEEP}*", dtype: str = "*") -> tuple[Group, ...]:
    """Return the sweeps with the cases that a glob pattern matches, each a group without golden values.

    All are in the compute dtype `dtype`, or in both if it is `*`. Raises FileError where the pattern matches none.
    """
    asked = sweeps(seed, pattern, dtype)
    found = [Group(preset, cases[0].fprop_dtype, cases, nothing_expected) for preset, cases in asked]
    if not found:
        names = ", ".join(f"{SWEEP}{sweep.name}" for sweep in SWEEPS)
        raise FileError(f"no request of a sweep matches {pattern!a}; there are {names}")
    return tuple(found)


MAX_SHAPES = 8
"""How many shapes of tokens [b, t] of a sweep a compiler is asked at once: one sweep has 35, each a program."""


def with_one_sweep(groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return groups with one of the sweeps that came by themselves, or some of it, by turns that the seed decides."""
    sweeps_drawn = [group for group in groups if group.by_turns]
    drawn = drawn_as(sweeps_drawn[0].cases[0].id) if sweeps_drawn else None
    if drawn is None:
        return tuple(groups)
    turn = sweeps_drawn[drawn[1] % len(sweeps_drawn)]
    asked = replace(turn, cases=of_few_shapes(turn.cases, drawn[1]))
    return tuple(asked if group is turn else group for group in groups if group is turn or not group.by_turns)


def of_few_shapes(cases: Sequence[Case], seed: int) -> tuple[Case, ...]:
    """Return cases, in their order, that a seed chooses until their calls would have more than `MAX_SHAPES` shapes."""
    chosen: list[int] = []
    shapes: set[tuple[int, ...]] = set()
    for place in random_of(cases[0].id, seed).permutation(len(cases)):
        more = shapes | {call.tokens.shape for call in cases[place].calls}
        if not chosen or len(more) <= MAX_SHAPES:
            chosen.append(place)
            shapes = more
    return tuple(cases[place] for place in sorted(chosen))


def name_of(case: Case) -> str:
    """Return what the ids of a case in all compute dtypes have in common."""
    return case.id.rpartition(".")[0]


def one_of(dtypes: Sequence[str], case: Case, seed: int) -> str:
    """Return the compute dtype in which a case is drawn again."""
    return sorted(dtypes)[int(random_of(name_of(case), seed).integers(len(dtypes)))]


def stored_only(group: Group) -> Callable[[str], Mapping[str, Array]]:
    """Return the golden taps of a group's stored cases; drawn ones have none."""
    return functools.partial(expected_of_stored, group.expected)


def expected_of_stored(expected: Callable[[str], Mapping[str, Array]], case_id: str) -> Mapping[str, Array]:
    """Return the golden taps of a case, nothing for a drawn one."""
    return expected(case_id) if drawn_as(case_id) is None else {}


def nothing_expected(_case_id: str) -> Mapping[str, Array]:
    """Return no golden taps: nothing is stored of what is drawn."""
    return {}


def reweighted(groups: Sequence[Group], dtype: str, seed: int) -> Group:
    """Return one group of a compute dtype with other weights, and its case with the most calls with other tokens."""
    own = [group for group in groups if group.fprop_dtype == dtype]
    group = own[int(random_of(dtype, seed).integers(len(own)))]
    longest = max(group.cases, key=lambda case: len(case.calls))
    case = redraw(longest, group.preset.config, seed, "reweighted")
    return replace(group, preset=reweight(group.preset, seed), cases=(case,), expected=stored_only(group))
