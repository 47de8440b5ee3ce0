"""The search for the ways of one row: what is likeliest in a few cases, one change at a time, and passes in all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import Score, noise_before, of_all_layers, score, score_by_layer
from grok_conformance.harness.checks.local import Local, fails, recheck, telling, worst
from grok_conformance.harness.checks.moves import (
    FIRST_SUMS,
    MORE_SUMS,
    ROUNDINGS,
    Moves,
    approximations,
    as_elsewhere,
    coarse,
    coarse_again,
    slow,
    weights_alike,
    with_ways,
)
from grok_conformance.harness.checks.rivals import explained_by_a_fault, faulty
from grok_conformance.harness.graph.oracle import Evaluator, evaluate
from grok_conformance.harness.graph.rounding import ACCUMULATOR, AS_PUBLISHED, PROMOTES, SUMS, RoundingPlan
from grok_conformance.harness.graph.row import Operation

NUM_ROUNDS = 3
"""How often the cases that tell are added to, and the rows gone through."""

LEAST_USED = 0.1
"""The least worst error over its fence of an honest approximation: one that is used to its documented end has 0.58."""

COARSEST = 2.0**-6
"""The largest error, beside the values, that partial sums rounded to bfloat16 can make: 64 of them make 0.64 of it."""

NO_NEARER = 0.95
"""The share of the error that a number of partial sums leaves, added in some order, which is not the right number."""

MANY = 16
"""Changes that are weighed in full at once; of more those are that one case shows to be likeliest."""

LARGEST_SEGMENT = 8
"""Rows that one search may involve: around more hidden taps their plans cannot be told apart."""


@dataclass(frozen=True)
class Found:
    """The likeliest ways of a row, the cases that told them, and all comparisons in these ways if the row passes."""

    ways: Ways
    told: Sequence[Exhibit]
    checked: Local | None = None


def search(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan]
) -> Found:
    """Look for the ways of a row in the cases that tell most, until they pass in all or more cases would not help."""
    told, ways, checked = telling(row.name, own, local), Ways(), local
    for _ in range(NUM_ROUNDS):
        for ways in found_in(row, told, known):
            checked = checked_in(row, own, ways, local, num_elements)
            if not fails(row.name, own, checked) and not faulty(row, ways, told):
                return Found(ways, told, checked)
        if any(worst(row.name, one, checked) > 1 for one in told):  # more cases would not explain these
            break
        worse = sorted(own, key=lambda one: -worst(row.name, one, checked))
        seen = {one.case.id for one in told}
        others = [one for one in worse if one.case.id not in seen and worst(row.name, one, checked) > 1]
        if not others:
            break
        told = [*told, others[0]]
    return Found(ways, told)


def checked_in(row: Operation, own: Sequence[Exhibit], ways: Ways, local: Local, num_elements: int) -> Local:
    """Return all comparisons with those of some cases in given ways of a row."""
    if ways == Ways():
        return local
    return recheck({row.name, *ways.plans}, [with_ways(one, ways) for one in own], local, num_elements)


def found_in(row: Operation, told: Sequence[Exhibit], known: Sequence[RoundingPlan]) -> Iterator[Ways]:
    """Yield the likeliest ways of a row, and if they do not pass those with a choice that is slow to work out.

    Where something is left to explain such a choice has been tried before.
    """
    ways = identify(row, told, known=known)
    yield ways
    best = score(row.name, [with_ways(one, ways) for one in told])
    if best.explained and len(told[0].needed([row.name])) <= LARGEST_SEGMENT:
        slower, best = likeliest_by((slow,), row, told, evaluate, ways)
        slower, _ = needed_only(row, slower, best, told, evaluate)
        if slower != ways:
            yield slower


def is_used(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> bool:
    """Return whether ways with an approximation explain what was shown in some cases, and come near what they allow."""
    found = score(row.name, [with_ways(one, ways) for one in told])
    return found.explained and least_used(row, ways, found.worst)


def least_used(row: Operation, ways: Ways, worst_used: float) -> bool:
    """Return whether what was shown strays as far as an approximation does somewhere, or nothing could hide in it."""
    plan = ways.plans.get(row.name, AS_PUBLISHED)
    return worst_used >= LEAST_USED or plan.at(ACCUMULATOR) == PROMOTES


def identify(
    row: Operation, told: Sequence[Exhibit], evaluator: Evaluator = evaluate, known: Sequence[RoundingPlan] = ()
) -> Ways:
    """Return the ways of a row, and of hidden ones before it, that are likeliest in some cases.

    One change is made at a time, as long as one makes what was shown decisively likelier or explains all of it; where
    that ends before, all roundings of the row are tried together, then the plans `known` of other stored forms of its
    weights, and then partial sums. Changes that turn out not to be needed are taken back. Partial sums, of which there
    are many, are not tried where a known fault explains all, nor where more is wrong than they can make. Of a row
    behind many hidden ones one change is tried. Beside the fault of another `evaluator` one change at a time is all
    that is tried.
    """
    if len(told[0].needed([row.name])) > LARGEST_SEGMENT:
        return alone(row, told) if evaluator is evaluate else Ways()
    if evaluator is not evaluate:
        return needed_only(row, *likeliest_by((coarse,), row, told, evaluator, Ways()), told, evaluator)[0]
    ways, best = likeliest_by((*ROUNDINGS, as_elsewhere(known)), row, told, evaluator, Ways())
    if best.relative > COARSEST or (not best.explained and explained_by_a_fault(row, told)):
        return Ways()
    whole, without = ways, best
    ways, best = likeliest_by(FIRST_SUMS, row, told, evaluator, whole)
    if not best.explained and best.relative > NO_NEARER * without.relative:  # some number fits anything a little better
        ways, best = whole, without
    if any(SUMS.name in plan.choices for plan in ways.plans.values()):
        ways, best = likeliest_by(MORE_SUMS, row, told, evaluator, ways)
    elif not best.explained:
        ways, best = likeliest_by((slow,), row, told, evaluator, ways)
    ways, best = needed_only(row, ways, best, told, evaluator)
    return alike(row, ways, best, told) if best.explained else approximated(row, ways, told)


def alone(row: Operation, told: Sequence[Exhibit]) -> Ways:
    """Return the likeliest change at one point of a row itself, or of all weights, none if none is decisively likelier.

    What the hidden rows before it pass on is as noisy as ever.
    """
    noise = [noise_before(row.name, one) for one in told]
    changes = [each for kind in (coarse, FIRST_SUMS[0]) for each in kind(row, Ways(), told)]
    tried = [Ways(), *(each for each in changes if each.plans.keys() == {row.name}), *weights_alike(row, Ways(), told)]
    scores = [score(row.name, [with_ways(one, each) for one in told], noise=noise) for each in tried]
    best = min(range(len(tried)), key=lambda i: scores[i].surprise)
    return tried[best] if scores[best].beats(scores[0]) else Ways()


def likeliest_by(
    moves: Sequence[Moves], row: Operation, told: Sequence[Exhibit], evaluator: Evaluator, ways: Ways
) -> tuple[Ways, Score]:
    """Return the likeliest ways that some kinds of changes lead to, one kind after the other, and their score.

    What explains all goes before what does not, and where all is explained already nothing else is likelier.
    """
    best = score(row.name, [with_ways(one, ways) for one in told], evaluator)
    for kind in moves:
        while kind in (coarse, slow) or not best.explained:  # what all elements err in common may be within fences
            tried = [
                (score_by_layer(row.name, [with_ways(one, each) for one in told], evaluator,
                                explained_only=best.explained), each)
                for each in promising(row, told, evaluator, ways, list(kind(row, ways, told)))
            ]  # fmt: skip
            scored = [(of_all_layers(parts), each) for parts, each in tried if parts]
            likelier = [
                (one, each) for one, each in scored
                if one.beats(best) or (one.explained and one.surprise < best.surprise)
                or (kind is coarse_again and one.explains_more(best))
            ]  # fmt: skip
            if not likelier:
                break
            best, ways = min(likelier, key=lambda pair: (not pair[0].explained, pair[0].surprise))
    return ways, best


def promising(
    row: Operation, told: Sequence[Exhibit], evaluator: Evaluator, ways: Ways, changed: Sequence[Ways]
) -> Sequence[Ways]:
    """Return those of many changed ways that are likeliest in the case that is worst in `ways`, as noisy as there."""
    if len(changed) <= MANY:
        return changed
    noisy = [(one, noise_before(row.name, with_ways(one, ways), evaluator)) for one in told]
    worst_of = [score(row.name, [with_ways(one, ways)], evaluator, [noise]).worst for one, noise in noisy]
    worst_one, noise = noisy[worst_of.index(max(worst_of))]
    scores = [score(row.name, [with_ways(worst_one, each)], evaluator, [noise]) for each in changed]
    order = sorted(range(len(changed)), key=lambda i: (not scores[i].explained, scores[i].surprise))
    return [changed[i] for i in order[:MANY]]


def approximated(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Ways:
    """Return ways with an approximation that explains the rest, the likeliest of them; as they are if none does.

    It adds an error instead of a rounding, so that it is judged by whether all lies within what it allows, and comes
    near it somewhere: a smaller error is another mistake, of a constant say, that would hide in the documented one.
    """
    scored = [
        (score(row.name, [with_ways(one, each) for one in told]), each) for each in approximations(row, ways, told)
    ]
    explaining = [
        (found.surprise, i)
        for i, (found, each) in enumerate(scored)
        if found.explained and least_used(row, each, found.worst)
    ]
    return scored[min(explaining)[1]][1] if explaining else ways


def alike(row: Operation, ways: Ways, best: Score, told: Sequence[Exhibit]) -> Ways:
    """Return ways that explain all with what was read of every input alike in all phases, where that explains it too.

    A port is taken to compute one token as it does several unless that is decisively less likely: few values may tell.
    """
    for each in ways.with_one_alike():
        other = score(row.name, [with_ways(one, each) for one in told])
        if other.explained and not best.beats(other):
            return alike(row, each, other, told)
    return ways


def needed_only(
    row: Operation, ways: Ways, best: Score, told: Sequence[Exhibit], evaluator: Evaluator
) -> tuple[Ways, Score]:
    """Return ways without what makes no difference, and their score."""
    for each in ways.without_one():
        other = score(row.name, [with_ways(one, each) for one in told], evaluator)
        if not best.beats(other) and (other.explained or not best.explained):
            return needed_only(row, each, other, told, evaluator)
    return ways, best
