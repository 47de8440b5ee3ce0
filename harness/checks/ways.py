"""Which ways a candidate computes each operation in: a rounding plan, and what it read of every input.

Ways are looked for only where an operation fails as the specification asks for it. What is found holds for all the data
of one compute dtype and stored form of the weights; it is never mixed, and always reported. The search tells ways apart
by likelihood in a few cases, one change at a time; what it finds must then pass every check on all the data.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import Score, noise_before, of_all_layers, score, score_by_layer
from grok_conformance.harness.checks.moves import (
    FIRST_SUMS,
    MORE_SUMS,
    ROUNDINGS,
    Moves,
    approximations,
    as_elsewhere,
    coarse,
    coarse_again,
    only_recorded,
    slow,
    with_ways,
)
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.pooling import pooled_systematic
from grok_conformance.harness.checks.rivals import explained_by_a_fault, faulty
from grok_conformance.harness.graph.oracle import Evaluator, evaluate
from grok_conformance.harness.graph.rounding import ACCUMULATOR, AS_PUBLISHED, PROMOTES, SUMS, RoundingPlan
from grok_conformance.harness.graph.row import Operation
from grok_conformance.harness.measure.comparison import Comparison

Local = dict[str, list[Comparison]]
"""The local check of every case, by case id."""

NUM_TELLING = 2
"""Cases in which ways are told apart at first; one in which what was found fails joins them."""

NUM_ROUNDS = 3

LEAST_USED = 0.1
"""The least worst error over its fence of an honest approximation: one that is used to its documented end has 0.58."""

COARSEST = 2.0**-6
"""The largest error, beside the values, that partial sums rounded to bfloat16 can make: 64 of them make 0.64 of it."""

LARGEST_SEGMENT = 8
"""Rows that one search may involve: around more hidden taps their plans cannot be told apart."""


def choose_ways(exhibits: Sequence[Exhibit], local: Local, num_elements: int) -> tuple[list[Exhibit], Local]:
    """Return the exhibits with the ways found for every row that fails as published, and the comparisons then.

    Rows are taken in the order of the graph, since what a row carries to the next depends on what it read itself; the
    residual stream, which runs through all layers, comes before. What is found may explain a row that was tried before.
    """
    found = list(exhibits)
    for _ in range(NUM_ROUNDS if found else 0):
        known = [one.ways for one in found]
        found, local = choose_once(found, local, num_elements)
        if known == [one.ways for one in found]:
            break
    return found, local


def choose_once(exhibits: Sequence[Exhibit], local: Local, num_elements: int) -> tuple[list[Exhibit], Local]:
    """Return the exhibits with the ways found for every row that fails, each tried once, and the comparisons then."""
    found = {one.case.id: one for one in exhibits}
    graph = exhibits[0].evidence.graph
    for row in sorted(graph.operations, key=lambda row: not row.is_stream):
        for form in dict.fromkeys(one.form_of(row) for one in exhibits):
            own = [one for one in found.values() if one.form_of(row) == form]
            if fails(row.name, own, local):
                chosen, local = choose_way(row, own, local, num_elements, plans_of(row, found.values()))
                found |= {one.case.id: one for one in chosen}
    return list(found.values()), local


def plans_of(row: Operation, exhibits: Iterable[Exhibit]) -> list[RoundingPlan]:
    """Return the plans that were found of a row in some cases, each once."""
    plans: list[RoundingPlan] = []
    for one in exhibits:
        plan = one.ways.plans.get(row.name)
        if plan is not None and plan not in plans:
            plans.append(plan)
    return plans


def choose_way(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan] = ()
) -> tuple[Sequence[Exhibit], Local]:
    """Return the exhibits of one stored form with the way of a row added if one passes, and all comparisons then.

    `known` are the plans of the row that were found for other forms.
    """
    told, ways = telling(row.name, own, local), Ways()
    if told and score(row.name, told).relative > COARSEST:  # more is wrong than any way can make
        return own, local
    for _ in range(NUM_ROUNDS):
        for ways in found_in(row, told, known):
            tried = [with_ways(one, ways) for one in own]
            checked = recheck({row.name, *ways.plans}, tried, local, num_elements) if ways != Ways() else local
            if not fails(row.name, tried, checked) and not faulty(row, ways, told):
                return tried, checked
        if any(worst(row.name, one, checked) > 1 for one in told):  # more cases would not explain these
            break
        worse = sorted(own, key=lambda one: -worst(row.name, one, checked))
        seen = {one.case.id for one in told}
        others = [one for one in worse if one.case.id not in seen and worst(row.name, one, checked) > 1]
        if not others:
            break
        told = [*told, others[0]]
    # A truncating sum is a bias that no single element may show, and of what is only recorded nothing is known.
    used = [
        each
        for each in approximations(row, ways, told)
        if least_used(row, each, score(row.name, [with_ways(one, each) for one in told]).worst)
    ]
    for unknown in (*used, *only_recorded(row, ways, told)):
        tried = [with_ways(one, unknown) for one in own]
        checked = recheck({row.name, *unknown.plans}, tried, local, num_elements)
        if not fails(row.name, tried, checked) and not faulty(row, unknown, told):
            return tried, checked
    return own, local


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
    ways, best = likeliest_by(FIRST_SUMS, row, told, evaluator, ways)
    if any(SUMS.name in plan.choices for plan in ways.plans.values()):
        ways, best = likeliest_by(MORE_SUMS, row, told, evaluator, ways)
    elif not best.explained:
        ways, best = likeliest_by((slow,), row, told, evaluator, ways)
    ways, best = needed_only(row, ways, best, told, evaluator)
    return ways if best.explained else approximated(row, ways, told)


def alone(row: Operation, told: Sequence[Exhibit]) -> Ways:
    """Return the likeliest change at one point of a row itself, none if that is not decisively likelier.

    What the hidden rows before it pass on is as noisy as ever.
    """
    noise = [noise_before(row.name, one) for one in told]
    changes = [each for kind in (coarse, FIRST_SUMS[0]) for each in kind(row, Ways(), told)]
    tried = [Ways(), *(each for each in changes if each.plans.keys() == {row.name})]
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
                for each in kind(row, ways, told)
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
        if found.worst <= 1 and least_used(row, each, found.worst)
    ]
    return scored[min(explaining)[1]][1] if explaining else ways


def needed_only(
    row: Operation, ways: Ways, best: Score, told: Sequence[Exhibit], evaluator: Evaluator
) -> tuple[Ways, Score]:
    """Return ways without what makes no difference, and their score."""
    for each in ways.without_one():
        other = score(row.name, [with_ways(one, each) for one in told], evaluator)
        if not best.beats(other) and (other.explained or not best.explained):
            return needed_only(row, each, other, told, evaluator)
    return ways, best


def telling(row: str, own: Sequence[Exhibit], local: Local) -> list[Exhibit]:
    """Return the cases in which a row is worst, or where none fails alone those with the most of it."""
    having = [one for one in own if any(one.row_of(c) == row and not c.problem for c in local[one.case.id])]

    def rank(one: Exhibit) -> tuple[bool, float]:
        size = sum(c.num_elements for c in local[one.case.id] if one.row_of(c) == row)
        return worst(row, one, local) <= 1, -size

    return sorted(having, key=rank)[:NUM_TELLING]


def recheck(rows: Collection[str], tried: Sequence[Exhibit], local: Local, num_elements: int) -> Local:
    """Return all comparisons with those made again that depend on some rows."""
    better = dict(local)
    for one in tried:
        rows_of = one.evidence.graph.rows_of(one.evidence.config)
        affected = {row.name for row in rows_of if not one.needed([row.name]).isdisjoint(rows)}
        if not any(one.row_of(comparison) in affected for comparison in local[one.case.id]):
            continue
        made = check_case(one, num_elements=num_elements, only=affected)
        own = {(c.call, c.tap): c for c in made if one.row_of(c) in affected}
        better[one.case.id] = [own.get((c.call, c.tap), c) for c in local[one.case.id]]
    return better


def fails(row: str, exhibits: Sequence[Exhibit], local: Local) -> bool:
    """Return whether a row fails in a way that another way to compute it could explain."""
    own = [(one, c) for one in exhibits for c in local[one.case.id] if one.row_of(c) == row]
    return any(not c.passed and not c.problem for _, c in own) or fail_together(own)


def fail_together(own: Sequence[tuple[Exhibit, Comparison]]) -> bool:
    """Return whether the systematic statistic over all comparisons of a row fails."""
    pooled = pooled_systematic([(one.case.id, c) for one, c in own], own[0][0].evidence.graph) if own else ()
    return any(not one.ratio <= 1 for one in pooled)


def worst(row: str, one: Exhibit, local: Local) -> float:
    """Return the worst measured / allowed of a row in a case, problems that no number can say apart."""
    return max((c.ratio for c in local[one.case.id] if one.row_of(c) == row and not c.problem), default=0.0)


def failing_together(exhibits: Sequence[Exhibit], local: Local) -> set[str]:
    """Return the operations whose systematic statistic fails over all cases."""
    rows: dict[str, list[tuple[Exhibit, Comparison]]] = {}
    for one in exhibits:
        for comparison in local[one.case.id]:
            rows.setdefault(one.row_of(comparison), []).append((one, comparison))
    return {c.operation for own in rows.values() if fail_together(own) for _, c in own}
