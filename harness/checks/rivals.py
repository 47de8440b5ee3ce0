"""Whether a known fault explains what was shown of a row better than another way to compute it does."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import (
    DECISIVE,
    Score,
    added,
    beyond_fences,
    explains,
    noise_before,
    of_all_layers,
    score_by_layer,
    surprises,
)
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.faults import ALL_FAULTS, Fault, mutant
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Operation, Scope

Scores = Mapping[int | None, Score]
"""Scores of what was shown of a row: of all of it by None, or of what is shown in each layer."""


FEWEST_WRONG = 24
"""Values that must be wrong to be a fault's: of fewer, each off by a rounding, a fault may give all by chance."""


def faulty(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> bool:
    """Return whether a known fault of a row, or of a hidden one before it, is decisively likelier than ways of it.

    It must also be likelier than none: what a fault does not change is as likely as ever, and may be likelier than with
    an approximation, which allows more than most ports use. Since that may hide a fault of one layer, each is asked by
    itself; of hidden rows whose layers are shown together, the faults of each layer alone.
    """
    by_name = told[0].evidence.graph.by_name
    approximate = {name for name, plan in ways.plans.items() if plan.adds_an_error(by_name[name].points)}
    if hides_a_fault(row, ways, approximate, told):
        return True
    apart = bool(approximate)
    known = [*rivals(row, told, harmful(ALL_FAULTS)).values(), *in_one_layer(approximate - {row.name}, told)]
    tried = [with_ways(one, ways) for one in told]
    if not told[0].hidden.isdisjoint(told[0].needed([row.name])):
        return fault_is_likelier(row, known, told, tried)
    own, published = (scores_of(row, each, evaluate, apart=apart) for each in (tried, told))
    limits = {layer: min(own[layer], published[layer], key=lambda one: one.surprise) for layer in own}
    # What explains all is beaten by nothing that leaves something: that ends at the first such tap.
    explained_only = not apart and limits[None].explained
    found = (
        scores_of(row, each, rival, apart=apart, explained_only=explained_only)
        for each in (told, tried)
        for rival in known
    )
    return any(likelier(score, limits[layer], exactly=not apart) for scores in found for layer, score in scores.items())


def fault_is_likelier(
    row: Operation, known: Sequence[Evaluator], told: Sequence[Exhibit], tried: Sequence[Exhibit]
) -> bool:
    """Return whether a known fault is decisively likelier, behind hidden rows, than ways, and than none.

    A fault is taken to be as noisy as what it is added to, lest it win by the luck of its own draws.
    """
    sides = [(each, [noise_before(row.name, one) for one in each]) for each in (told, tried)]
    limits = [surprises(row.name, each, evaluate, noise) for each, noise in sides]
    found = (surprises(row.name, each, rival, noise) for rival in known for each, noise in sides)
    return all(limits) and any(
        all(gain(limit[layer], surprise) > DECISIVE for limit in limits)
        for rival in found
        for layer, surprise in rival.items()
    )


def gain(limit: Sequence[Array], rival: Sequence[Array]) -> float:
    """Return by how much less surprising [tokens, values] a rival is, over the values that both compare.

    The values of a token share what the hidden rows before it passed on: they count as one.
    """
    gains = [np.subtract(*pair) for pair in zip(limit, rival, strict=True)]
    return sum(float(each[~np.isnan(each)].mean()) for array in gains for each in array if not np.isnan(each).all())


def hides_a_fault(row: Operation, ways: Ways, approximate: Collection[str], told: Sequence[Exhibit]) -> bool:
    """Return whether a known fault of some approximate rows is in some values: each is right or has just that error.

    An approximation's own errors are another function of the value, which no fault gives to the last bit.
    """
    if row.name not in approximate:
        return False
    plain = ways.without_approximations(told[0].evidence.graph)
    tried = [with_ways(one, plain) for one in told]
    wrong = beyond_fences(row.name, tried)
    known = [fault for fault in harmful(ALL_FAULTS).values() if row.name in fault.changes]
    enough = sum(map(np.count_nonzero, wrong)) >= FEWEST_WRONG
    return enough and any(accounts_for(row, tried, mutant(fault), wrong) for fault in known)


def accounts_for(row: Operation, exhibits: Sequence[Exhibit], rival: Evaluator, wrong: Sequence[Array]) -> bool:
    """Return whether every value of a row that is wrong is what a fault gives."""
    try:
        beyond = beyond_fences(row.name, exhibits, rival)
    except (IndexError, KeyError, ValueError):  # values of another shape
        return False
    return not any((one & other).any() for one, other in zip(wrong, beyond, strict=True))


def scores_of(
    row: Operation,
    exhibits: Sequence[Exhibit],
    evaluator: Evaluator,
    *,
    apart: bool,
    explained_only: bool = False,
) -> Scores:
    """Return the scores of a row by an evaluator, of each layer or of all; none where its values have another shape.

    With `explained_only` there are none either where not all is explained.
    """
    try:
        parts = score_by_layer(row.name, exhibits, evaluator, explained_only=explained_only)
    except (IndexError, KeyError, ValueError):
        return {}
    if explained_only and not parts:
        return {}
    if apart:
        return {layer: added(each) for layer, each in parts.items()}
    return {None: of_all_layers(parts)}


def likelier(rival: Score, limit: Score, *, exactly: bool) -> bool:
    """Return whether a fault is decisively likelier; roundings that explain all are beaten by what fits better alone.

    That a fault leaves fewer roundings open says nothing where all are as they should be. An approximation, which
    allows more than any rounding, may well lie about one of two faults.
    """
    fits_better = rival.explained and rival.misfit < limit.misfit - DECISIVE
    return rival.beats(limit) and (fits_better or not (exactly and limit.explained))


def explained_by_a_fault(row: Operation, told: Sequence[Exhibit]) -> bool:
    """Return whether a known fault leaves nothing of a row to explain that is computed as published else."""
    known = rivals(row, told, harmful(ALL_FAULTS)).values()
    return any(explains(row.name, told, rival) for rival in known)


def harmful(faults: Mapping[str, Fault]) -> dict[str, Fault]:
    """Return the faults that change what a model computes."""
    return {name: fault for name, fault in faults.items() if not fault.harmless}


def in_one_layer(rows: Collection[str], told: Sequence[Exhibit]) -> list[Evaluator]:
    """Return the evaluators of those faults that change one of some rows, in each layer alone."""
    found = [fault for fault in harmful(ALL_FAULTS).values() if not set(rows).isdisjoint(fault.changes)]
    num_layers = max(one.evidence.config.model.num_layers for one in told)
    return [only_in(layer, mutant(fault)) for fault in found for layer in range(num_layers if num_layers > 1 else 0)]


def only_in(layer: int, rival: Evaluator) -> Evaluator:
    """Return an evaluator that is another one in one layer, and right in all others."""

    def apply(tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan) -> Exact:
        return (rival if split_tap(tap)[0] == layer else evaluate)(tap, scope, weights, values, plan)

    return apply


def rivals(row: Operation, told: Sequence[Exhibit], faults: Mapping[str, Fault]) -> dict[str, Evaluator]:
    """Return the evaluators of those faults that change a row, or a hidden one before it, by name."""
    rows = told[0].needed([row.name])
    return {name: mutant(fault) for name, fault in faults.items() if not rows.isdisjoint(fault.changes)}
