"""The judge of operations: every one checked, the ways in which it is computed found, and what fails diagnosed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.cases.probes import PREFIX
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import score, score_rival
from grok_conformance.harness.checks.local import Local, failing_together, recheck, telling
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.rivals import rivals
from grok_conformance.harness.checks.search import LARGEST_SEGMENT, identify
from grok_conformance.harness.checks.ways import choose_ways
from grok_conformance.harness.diagnosis.described import described
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.matched_filter import diagnose
from grok_conformance.harness.diagnosis.transformations import KEEP_OPERANDS
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.graph.oracle import Evaluator, evaluate
from grok_conformance.harness.graph.row import Operation
from grok_conformance.harness.judging.marks import marked
from grok_conformance.harness.judging.quirks import quirks_among
from grok_conformance.harness.measure.comparison import Comparison, Kind


@dataclass(frozen=True)
class JudgedOperations:
    """What is found in the cases of one compute dtype: each with the ways it was computed in, and the local checks.

    `failing` are the operations that fail somewhere, or in what all cases have in common; `noted` others of which a
    note is made. `diagnoses` has the likely fault of both.
    """

    exhibits: tuple[Exhibit, ...]
    local: Local
    failing: frozenset[str]
    noted: frozenset[str]
    diagnoses: Mapping[str, Diagnosis]


SLIGHT = 2.0
"""How far beyond its fence a case of a quirk may be because of a way that all others leave within it."""


def judge_operations(
    exhibits: Sequence[Exhibit], num_elements: int, only: Collection[str] | None = None, local: Local | None = None
) -> JudgedOperations:
    """Judge the answered cases of one compute dtype operation by operation.

    Where an operation fails as the specification asks for it, its permitted ways are tried; one is chosen over all
    cases, or none if none makes every case pass. `num_elements` is the size of the whole run, which sets λ; `only`
    restricts the judge to some rows of the graph, `local` are the checks if they have been made.

    Cases of published quirks are told by themselves, in the ways that the others show; where they fail slightly, or
    in nothing that a quirk touches, in ways that explain all.
    """
    core = [one for one in exhibits if not one.quirk] or list(exhibits)
    quirks = [one for one in exhibits if one.quirk] if len(core) < len(exhibits) else []
    made = local or {one.case.id: check_case(one, num_elements=num_elements, only=only) for one in core}
    found = judge_core(core, {one.case.id: made[one.case.id] for one in core}, num_elements)
    if not found.failing and only is None:
        found = by_marks(by_logits_alone(found, num_elements))
    apart, told = in_known_ways(found, quirks, num_elements, only)
    looked_into = [one for one in apart if only is None and fails_beside_quirk(one, told[one.case.id])]
    if looked_into and not found.failing:
        some = {one.case.id: told[one.case.id] for one in looked_into}
        ways, local = choose_ways([*found.exhibits, *looked_into], {**found.local, **some}, num_elements)
        core_ways = [one for one in ways if one.case.id in found.local]
        found = replace(found, exhibits=tuple(core_ways), local={case: local[case] for case in found.local})
        apart, told = in_known_ways(found, quirks, num_elements, only)
    return replace(found, exhibits=(*found.exhibits, *apart), local={**found.local, **told})


def in_known_ways(
    found: JudgedOperations, quirks: Sequence[Exhibit], num_elements: int, only: Collection[str] | None
) -> tuple[list[Exhibit], Local]:
    """Return cases of published quirks in the ways that the others show, and the checks then."""
    known = {one.preset.name: one.ways for one in found.exhibits}
    apart = [with_ways(one, known.get(one.preset.name, Ways())) for one in quirks]
    return apart, {one.case.id: check_case(one, num_elements=num_elements, only=only) for one in apart}


def fails_beside_quirk(exhibit: Exhibit, checked: Sequence[Comparison]) -> bool:
    """Return whether a case fails in nothing that its quirk touches, or slightly: as a way that hardly showed before.

    A port may compute in another way for a batch or a length that no other case has.
    """
    failing = [one for one in checked if not one.passed]
    slightly = all(not one.problem and one.ratio <= SLIGHT for one in failing)
    return bool(failing) and (slightly or not quirks_among(exhibit, failing))


def check_operations(
    exhibits: Sequence[Exhibit], num_elements: int, searched: Collection[str] = ()
) -> JudgedOperations:
    """Check the answered cases of one compute dtype in the ways that are known.

    If something fails in one of the cases `searched`, it is looked into, in these cases alone.
    """
    local = {one.case.id: check_case(one, num_elements=num_elements) for one in exhibits}
    some = [one for one in exhibits if one.case.id in searched]
    core = [one.case.id for one in some if not one.quirk]
    failing = {case: {one.operation for one in found if not one.passed} for case, found in local.items()}
    if not any(failing[case] for case in core):
        return JudgedOperations(tuple(exhibits), local, frozenset().union(*failing.values()), frozenset(), {})
    found = judge_operations(some, num_elements, local=local)
    others = [one for one in exhibits if one.case.id not in searched]
    left = [failing[one.case.id] for one in others]
    return replace(
        found,
        exhibits=(*found.exhibits, *others),
        local={**local, **found.local},
        failing=found.failing.union(*left),
    )


@np.errstate(over="ignore", invalid="ignore", divide="ignore")  # what is tried of a port's values may be absurd
def judge_core(exhibits: Sequence[Exhibit], local: Local, num_elements: int) -> JudgedOperations:
    """Return what cases say of the operations: the ways found, the checks then, and what fails, diagnosed."""
    undiagnosed = seen_to_fail(exhibits, local, num_elements)
    exhibits, local = undiagnosed.exhibits, undiagnosed.local
    failing, noted = undiagnosed.failing, undiagnosed.noted
    shown = {one.operation for found in local.values() for one in found if one.kind is not Kind.MISSING}
    diagnoses = diagnosed(exhibits, local, (failing | noted) & shown)
    for operation in sorted(failing & shown):
        if not (operation in diagnoses and diagnoses[operation].faults):
            nearer, checked = nearest(operation, exhibits, local, num_elements)
            # Ways in which nothing fails were refused before: what is wrong hides in what they allow.
            fails = any(not one.passed for found in checked.values() for one in found if one.operation == operation)
            again = diagnosed(nearer, checked, {operation}) if fails and nearer is not exhibits else {}
            if operation in again and (
                again[operation].faults
                or (much_nearer(operation, checked, local) and not resembling(operation, exhibits, local))
            ):
                exhibits, local, diagnoses = nearer, checked, {**diagnoses, **again}
    diagnoses = {**diagnoses, **with_places(exhibits, local, failing & shown, diagnoses)}
    return replace(undiagnosed, exhibits=tuple(exhibits), local=local, diagnoses=diagnoses)


def seen_to_fail(exhibits: Sequence[Exhibit], local: Local, num_elements: int) -> JudgedOperations:
    """Return the ways found in some cases, the checks then, and what fails, without a diagnosis."""
    exhibits, local = choose_ways(exhibits, local, num_elements)
    found = [comparison for comparisons in local.values() for comparison in comparisons]
    failing = {one.operation for one in found if not one.passed} | failing_together(exhibits, local)
    noted = {one.operation for one in found if one.note} - failing
    return JudgedOperations(tuple(exhibits), local, frozenset(failing), frozenset(noted), {})


def by_logits_alone(found: JudgedOperations, num_elements: int) -> JudgedOperations:
    """Judge probes in which nothing fails once more, as if logits were all that is shown.

    A shown tap ends the segment of the hidden rows before it: what they pass on to it is allowed there, and taken as
    it is from there on. In logits to which a probe brings it undimmed it may still be seen. Cases that fail so are
    taken as showing logits alone.
    """
    known = {one.case.id: one for one in found.exhibits}
    alone = [one.logits_alone() for one in found.exhibits if one.preset.name.startswith(PREFIX) and one.hides_taps]
    alone = [one for one in alone if len(one.evidence.observed) < len(known[one.case.id].evidence.observed)]
    local: Local = {one.case.id: check_case(one, num_elements=num_elements) for one in alone}
    if all(comparison.passed for comparisons in local.values() for comparison in comparisons):
        return found
    again = judge_core(alone, local, num_elements)
    failing = {case: checked for case, checked in again.local.items() if not all(c.passed for c in checked)}
    return replace(
        found,
        exhibits=(*(one for case, one in known.items() if case not in failing),
                  *(one for one in again.exhibits if one.case.id in failing)),
        local={**found.local, **failing},
        failing=again.failing,
        diagnoses={**found.diagnoses, **again.diagnoses},
    )  # fmt: skip


def by_marks(found: JudgedOperations) -> JudgedOperations:
    """Look for the marks of known faults where nothing fails."""
    if found.failing:
        return found
    local, diagnoses = marked(found.exhibits, found.local)
    return replace(
        found,
        local=local,
        failing=frozenset(diagnoses),
        noted=found.noted - frozenset(diagnoses),
        diagnoses={**found.diagnoses, **diagnoses},
    )


def resembling(operation: str, exhibits: Sequence[Exhibit], local: Local) -> bool:
    """Return whether it is known what an operation's failing values are right for, so that no other way need be.

    That they are right for rounded operands is what another way says better, since it tells the other values too.
    """
    told = with_places(exhibits, local, {operation}, {}).get(operation)
    return told is not None and bool(told.resembles) and told.remedy != KEEP_OPERANDS


def with_places(
    exhibits: Sequence[Exhibit], local: Local, failing: Collection[str], diagnoses: Mapping[str, Diagnosis]
) -> dict[str, Diagnosis]:
    """Return the diagnoses of failing operations with where they fail and what their values resemble.

    Values of a port may be anything: where a description cannot be worked out an operation has none.
    """
    comparisons = [local[one.case.id] for one in exhibits]
    told: dict[str, Diagnosis] = {}
    for operation in sorted(set(failing) - not_finite(comparisons)):
        with contextlib.suppress(ArithmeticError, IndexError, KeyError, ValueError), np.errstate(all="ignore"):
            found = described(diagnoses.get(operation), operation, exhibits, comparisons)
            told |= {} if found is None else {operation: found}
    return told


def diagnosed(exhibits: Sequence[Exhibit], local: Local, operations: Collection[str]) -> dict[str, Diagnosis]:
    """Return the diagnosis of some operations; one whose values are not finite, or cannot be worked out, has none."""
    comparisons = [local[one.case.id] for one in exhibits]
    diagnoses: dict[str, Diagnosis] = {}
    for operation in sorted(set(operations) - not_finite(comparisons)):
        try:
            diagnoses |= diagnose(exhibits, comparisons, {operation})
        except (ArithmeticError, IndexError, KeyError, ValueError):  # a fault of another shape among hidden taps
            continue
    return diagnoses


def not_finite(comparisons: Sequence[Sequence[Comparison]]) -> set[str]:
    """Return the operations that gave a value which is not finite: it is like nothing."""
    return {c.operation for found in comparisons for c in found if not c.is_finite}


NUM_SUSPECTS = 4
"""Known faults of an operation for which ways are looked for: each costs as much as looking for a right port's."""

NEARER = 2.0
"""How many times nearer, or right in how many more values, a way must be to be shown where every way fails."""


def much_nearer(operation: str, local: Local, before: Local) -> bool:
    """Return whether an operation that still fails errs far less than before, or in far fewer values."""

    def worst_and_number(each: Local) -> tuple[float, int]:
        own = [c for found in each.values() for c in found if c.operation == operation]
        return max((c.ratio for c in own), default=0.0), sum(c.num_beyond for c in own)

    now, published = worst_and_number(local), worst_and_number(before)
    return any(figure * NEARER < other for figure, other in zip(now, published, strict=True))


def nearest(
    operation: str, exhibits: Sequence[Exhibit], local: Local, num_elements: int
) -> tuple[Sequence[Exhibit], Local]:
    """Return the exhibits in the ways nearest to what an operation that fails in every way shows, and the comparisons.

    A port may round elsewhere and be wrong besides: every known fault of the operation is tried with the ways that
    explain the rest, and the likeliest pair gives the ways.
    """
    graph = exhibits[0].evidence.graph
    found = {one.case.id: one for one in exhibits}
    for row in [row for row in graph.operations if row.tap == operation]:
        for form in dict.fromkeys(one.form_of(row) for one in exhibits):
            own = [one for one in found.values() if one.form_of(row) == form]
            ways = likeliest_ways(row, telling(row.name, own, local))
            found |= {one.case.id: with_ways(one, ways) for one in own}
            if ways != Ways():
                local = recheck({row.name, *ways.plans}, [found[one.case.id] for one in own], local, num_elements)
    nearer = list(found.values())
    return (exhibits if nearer == list(exhibits) else nearer), local


def likeliest_ways(row: Operation, told: Sequence[Exhibit]) -> Ways:
    """Return the ways of a row that are likeliest, be it right or have one of the known faults.

    Behind many hidden rows none is looked for beside a fault.
    """
    if not told or len(told[0].needed([row.name])) > LARGEST_SEGMENT:
        return Ways()
    told = told[:1]
    scored: list[tuple[float, Ways]] = []
    for evaluator in (evaluate, *suspects(row, told)):
        try:
            ways = identify(row, told, evaluator)
            scored.append((score(row.name, [with_ways(one, ways) for one in told], evaluator).surprise, ways))
        except (IndexError, KeyError, ValueError):  # a fault of another shape
            continue
    return min(scored, key=lambda pair: pair[0])[1]


def suspects(row: Operation, told: Sequence[Exhibit]) -> list[Evaluator]:
    """Return the few known faults of a row, or of hidden ones before it, that are likeliest without another way."""
    known = rivals(row, told, ALL_FAULTS)
    scored = sorted((score_rival(row.name, told, rival).surprise, name) for name, rival in known.items())
    return [known[name] for _, name in scored[:NUM_SUSPECTS]]
