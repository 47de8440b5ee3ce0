"""What patterns of cases ask for, one or several together: stored cases, probes, sweeps, what was drawn earlier."""

from __future__ import annotations

import fnmatch
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.cases.drawn import FPROP_DTYPES, drawn_as, stored_id
from grok_conformance.harness.cases.probes import PREFIX
from grok_conformance.harness.cases.sweeps import PREFIX as SWEEP
from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.groups import Group, ladder_groups, read_groups, sweep_groups, with_drawn

EVERY = "*"
"""The pattern of all stored cases, with which comes all that is drawn."""

Patterns = str | Sequence[str]
"""One glob pattern of cases, or several that are asked for together; none stands for all cases."""


def asked_groups(
    golden: Golden, patterns: Patterns = EVERY, dtype: str = "*", *, seed: int, drawing: bool = True
) -> tuple[Group, ...]:
    """Return what glob patterns of cases ask for in some compute dtypes; raises FileError for one that matches nothing.

    A pattern that begins with `sweep_` selects sweeps, one with `probe_` probes; the id of a case drawn earlier asks
    for that one again. With stored cases, which come first, come when `drawing` those that the seed draws from them,
    and with all of them every sweep.
    """
    asked = each_once(patterns)
    stored = [pattern for pattern in asked if not pattern.startswith((SWEEP, PREFIX)) and drawn_as(pattern) is None]
    found = union([group for pattern in stored for group in read_groups(golden, pattern, dtype)])
    others = [
        group
        for pattern in asked
        if pattern not in stored
        for group in groups_by_name(golden, pattern, dtype, seed=seed)
    ]
    if drawing and found:
        found = with_drawn(found, seed)
    if drawing and EVERY in asked:
        others += [replace(group, by_turns=True) for group in sweep_groups(seed, dtype=dtype)]
    return union([*found, *others])


def stored_groups(golden: Golden, patterns: Patterns = EVERY) -> tuple[Group, ...]:
    """Return the stored cases and probes that some patterns match; raises FixtureError for one that matches none."""
    return union([group for pattern in each_once(patterns) for group in read_groups(golden, pattern)])


def asked_rungs(seed: int, patterns: Patterns = EVERY) -> tuple[Group, ...]:
    """Return the rungs of the ladder that some patterns match; raises FileError for one that matches none."""
    return union([group for pattern in each_once(patterns) for group in ladder_groups(seed, pattern)])


def each_once(patterns: Patterns) -> tuple[str, ...]:
    """Return some patterns in their order, none twice; that of all cases where there is none."""
    return tuple(dict.fromkeys([patterns] if isinstance(patterns, str) else patterns)) or (EVERY,)


def groups_by_name(golden: Golden, pattern: str, dtype: str, *, seed: int) -> tuple[Group, ...]:
    """Return what a pattern asks for of probes, of sweeps, or of what an earlier run drew; raises FileError."""
    if (earlier := drawn_as(pattern)) is not None:
        return drawn_again(golden, pattern, earlier[1])
    return sweep_groups(seed, pattern, dtype) if pattern.startswith(SWEEP) else read_groups(golden, pattern, dtype)


def drawn_again(golden: Golden, case_id: str, seed: int) -> tuple[Group, ...]:
    """Return the case of that id, which an earlier run drew; raises FileError where the seed draws none of that id."""
    name, _, dtype = stored_id(case_id).rpartition(".")
    swept = name.startswith(SWEEP) and dtype in FPROP_DTYPES
    found = sweep_groups(seed, f"{name}.*", dtype) if swept else asked_groups(golden, f"{name}.*", seed=seed)
    kept = [replace(group, cases=tuple(case for case in group.cases if case.id == case_id)) for group in found]
    if not any(group.cases for group in kept):
        raise FileError(f"{case_id}: not drawn alone in {dtype}: run all cases with --seed {seed}")
    return tuple(group for group in kept if group.cases)


def matching(groups: Sequence[Group], patterns: Sequence[str]) -> tuple[Group, ...]:
    """Return as many groups, each with the cases that one of some patterns matches, stored or drawn by their own ids.

    Raises FileError for a pattern that matches none.
    """
    every = [case.id for group in groups for case in group.cases]
    for pattern in patterns:
        if not fnmatch.filter(every, pattern):
            raise FileError(f"--case: {unknown('case', pattern, every)}")

    def asked(case: Case) -> bool:
        return any(fnmatch.fnmatchcase(case.id, pattern) for pattern in patterns)

    return tuple(replace(group, cases=tuple(filter(asked, group.cases))) for group in groups)


def union(groups: Iterable[Group]) -> tuple[Group, ...]:
    """Return groups in their order, those of one model and compute dtype as one, which holds every case once."""
    found: dict[tuple[object, ...], Group] = {}
    for group in groups:
        key = model_of(group)
        found[key] = joined(found[key], group) if key in found else group
    return tuple(found.values())


def model_of(group: Group) -> tuple[object, ...]:
    """Return what only groups of the same weights and compute dtype have in common; weights are drawn by a seed."""
    drawn = drawn_as(group.cases[0].id)
    is_drawn = drawn is not None and (drawn[0] == "reweighted" or group.preset.name.startswith(SWEEP))
    return group.preset.name, group.fprop_dtype, drawn if is_drawn else None


def joined(first: Group, second: Group) -> Group:
    """Return two groups of one model as one."""
    known = frozenset(case.id for case in first.cases)
    cases = (*first.cases, *(case for case in second.cases if case.id not in known))
    expected = functools.partial(expected_of_either, known, first.expected, second.expected)
    return replace(first, cases=cases, expected=expected, by_turns=first.by_turns and second.by_turns)


def expected_of_either(
    known: Collection[str],
    first: Callable[[str], Mapping[str, Array]],
    second: Callable[[str], Mapping[str, Array]],
    case_id: str,
) -> Mapping[str, Array]:
    """Return the golden taps of a case from the group that holds it."""
    return first(case_id) if case_id in known else second(case_id)


def only_cases(groups: Sequence[Group], cases: frozenset[str] | None) -> tuple[Group, ...]:
    """Return groups with some cases alone, and what another seed draws of them; raises FileError where none is left."""
    if cases is None:
        return tuple(groups)
    names = {stored_id(case_id).rpartition(".")[0] for case_id in cases}

    def is_among(case_id: str) -> bool:
        return case_id in cases or (drawn_as(case_id) is not None and stored_id(case_id).rpartition(".")[0] in names)

    kept = [replace(group, cases=tuple(case for case in group.cases if is_among(case.id))) for group in groups]
    if not any(group.cases for group in kept):
        raise FileError("--last-failed: none of the cases that failed is among those asked for")
    return tuple(group for group in kept if group.cases)
