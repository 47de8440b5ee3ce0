"""Judges a candidate with known deviations: the oracle takes on their faults, so that nothing else passes with them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.harness.checks.evidence import Evidence, Key
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import ALL_FAULTS, mutant
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.comparison import Comparison

JOINED = " and "
"""Between the names of several deviations that explain one tap together."""


def emulating(waivers: Sequence[Waiver]) -> Evaluator:
    """Return an evaluator that has the waivers' faults where they are waived, and is exact everywhere else."""
    faulty = [(waiver, mutant(ALL_FAULTS[waiver.fault])) for waiver in waivers if waiver.fault]

    def evaluate_deviating(
        tap: str,
        scope: Scope,
        weights: ExactWeights,
        values: Mapping[str, Array],
        plan: RoundingPlan = AS_PUBLISHED,
    ) -> Exact:
        evaluator = next((mutated for waiver, mutated in faulty if waiver.covers(tap)), evaluate)
        return evaluator(tap, scope, weights, values, plan)

    return evaluate_deviating


def diagnosed(waivers: Sequence[Waiver], diagnoses: Mapping[str, Diagnosis]) -> tuple[Waiver, ...]:
    """Return the waivers whose fault the diagnosis of their operation names, and those without a fault."""
    return tuple(
        waiver
        for waiver in waivers
        if waiver.tap
        and (not waiver.fault or waiver.fault in getattr(diagnoses.get(split_tap(waiver.tap)[1]), "faults", ()))
    )


def covering(waivers: Sequence[Waiver], tap: str) -> Waiver | None:
    """Return the first waiver that covers a tap."""
    return next((waiver for waiver in waivers if waiver.tap and waiver.covers(tap)), None)


def waive(found: Sequence[Comparison], emulated: Sequence[Comparison], waivers: Sequence[Waiver]) -> list[Comparison]:
    """Mark what is waived. Where a fault is waived, the comparison with the oracle that has it takes the place.

    A tap that strays from that oracle too keeps its failure.
    """
    with_fault = {(comparison.call, comparison.tap): comparison for comparison in emulated}
    result = []
    for comparison in found:
        waiver = covering(waivers, comparison.tap)
        if waiver is None or (comparison.passed and not waiver.fault):
            result.append(comparison)
        elif not waiver.fault and not comparison.problem:
            result.append(replace(comparison, waived=waiver.name, systematic=()))
        elif not waiver.fault:  # nothing excuses a tap that is missing, misshapen or not finite
            result.append(comparison)
        else:
            other = with_fault[comparison.call, comparison.tap]
            excused = "" if comparison.passed else waiver.name
            result.append(replace(other, waived=excused) if other.passed else comparison)
    return result


def unseen(waivers: Sequence[Waiver], evidence: Evidence) -> tuple[Waiver, ...]:
    """Return the waivers of faults in operations of which a candidate shows no tap."""
    shown = {tap for _, tap in evidence.observed}
    return tuple(waiver for waiver in waivers if waiver.fault and not any(waiver.covers(tap) for tap in shown))


def waive_unseen(
    comparisons: Sequence[Comparison],
    waivers: Sequence[Waiver],
    check: Callable[[Sequence[Waiver]], Sequence[Comparison]],
) -> list[Comparison]:
    """Waive failures that faults of operations which are not shown explain: all of them together, and none less.

    `check` compares again with an oracle that has the faults of some waivers. A tap must be within its fences with all
    of them, and beyond them without any one of those named.
    """
    failing = {(c.call, c.tap) for c in comparisons if not c.passed and not c.problem}
    if not waivers or not failing:
        return list(comparisons)

    def passing(kept: Sequence[Waiver]) -> dict[tuple[int, str], Comparison]:
        return {(c.call, c.tap): c for c in check(kept) if c.passed and (c.call, c.tap) in failing}

    explained = passing(waivers)
    if not explained:
        return list(comparisons)
    without = {waiver.name: passing([other for other in waivers if other is not waiver]) for waiver in waivers}
    result = []
    for comparison in comparisons:
        key = (comparison.call, comparison.tap)
        needed = [name for name, others in without.items() if key in explained and key not in others]
        result.append(replace(explained[key], waived=JOINED.join(needed)) if needed else comparison)
    return result


def unmasked(evidence: Evidence) -> Evidence:
    """Return what was shown with nothing left out: a fault may let in what the specification masks."""
    return replace(evidence, observed={key: replace(seen, mask=np.True_) for key, seen in evidence.observed.items()})


def taken_as_they_are(waivers: Sequence[Waiver], evidence: Evidence) -> dict[Key, Array]:
    """Return the observed values from which the exact run goes on where a deviation has no fault to emulate."""
    blind = [waiver for waiver in waivers if waiver.tap and not waiver.fault]
    return {
        key: seen.cleaned for key, seen in evidence.observed.items() if any(waiver.covers(key[1]) for waiver in blind)
    }
