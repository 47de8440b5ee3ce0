"""What may be tried to explain a row: a change of its plan, of hidden rows before it, or of what it read."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.edges import computed_again, of_caches, of_edges
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.rounding import (
    ACCUMULATOR,
    AS_PUBLISHED,
    ATOMICS,
    BLOCKS,
    DEALT_BLOCKS,
    EVENLY,
    HANDED_ON,
    HARDWARE_TANH,
    IN_GROUPS,
    NEAREST,
    ORDERS,
    SHARDS,
    SPREAD,
    SUMS,
    UNSIGNED,
    WEIGHTS,
    Point,
    RoundingPlan,
)
from grok_conformance.harness.graph.row import Operation

Moves = Callable[[Operation, Ways, Sequence[Exhibit]], Iterator[Ways]]
"""Yields ways that differ by one change from some ways of a row."""

MAX_COMBINATIONS = 64
"""Combinations of the roundings of one row that are tried together."""


def with_ways(exhibit: Exhibit, ways: Ways) -> Exhibit:
    """Return an exhibit with some ways more."""
    own = exhibit.ways
    return replace(exhibit, ways=Ways({**own.plans, **ways.plans}, {**own.readings, **ways.readings}))


def is_coarse(point: Point) -> bool:
    """Return whether a point is one of the few that are tried first, and in all combinations."""
    return not (point == SUMS or point.approximation or point.alone or point.slow)


def coarse(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with one change more: a rounding other than of partial sums, or what was read of an input."""
    yield from _at_points(row, ways, told, lambda point, _choice: is_coarse(point))
    yield from of_edges(row, ways, told)
    yield from weights_alike(row, ways, told)


def weights_alike(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways in which a row and all hidden ones before it read weights in one form, as one loader makes them."""
    graph, settled = told[0].evidence.graph, told[0].ways.plans
    rows = [
        name
        for name in sorted(told[0].needed([row.name]))
        if WEIGHTS in graph.by_name[name].points and name not in settled
        if name == row.name or name in told[0].hidden
    ]
    for choice in WEIGHTS.choices if len(rows) > 1 else ():
        plans = {
            name: ways.plans.get(name, AS_PUBLISHED).but(WEIGHTS, choice)
            for name in rows
            if permitted(WEIGHTS, choice, name, told)
        }
        kept = {name: plan for name, plan in {**ways.plans, **plans}.items() if plan != AS_PUBLISHED}
        if kept != ways.plans:
            yield replace(ways, plans=kept)


def all_at_once(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with every combination of the roundings of a row, if they are not too many."""
    if row.name in told[0].ways.plans:
        return
    for plan in combined(AS_PUBLISHED, [point for point in row.points if is_coarse(point)], row, told):
        if plan != ways.plans.get(row.name, AS_PUBLISHED):
            yield replace(ways, plans={**ways.plans, row.name: plan})


def standing_alone(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with a choice at a point that stands alone: by itself, with other roundings, or one input carried.

    The others are tried in all combinations where there is one thing or another to do; else one change at a time.
    """
    if row.name in told[0].ways.plans:
        return
    others = [point for point in row.points if is_coarse(point)]
    for point in (point for point in row.points if point.alone):
        for choice in (choice for choice in point.choices if permitted(point, choice, row.name, told)):
            plan = AS_PUBLISHED.but(point, choice)
            if choice == point.published:
                continue
            yield from of_edges(row, replace(ways, plans={**ways.plans, row.name: plan}), told)
            more = [plan.but(other, made) for other in others for made in other.choices
                    if made != other.published and permitted(other, made, row.name, told)]  # fmt: skip
            pairs = [point for point in others if len(point.choices) == len(("one", "other"))]
            for each in (*more, *combined(plan, pairs, row, told)):
                yield replace(ways, plans={**ways.plans, row.name: each})


def combined(
    plan: RoundingPlan, points: Sequence[Point], row: Operation, told: Sequence[Exhibit]
) -> Iterator[RoundingPlan]:
    """Yield a plan with every combination of choices at some points, itself first, if they are not too many."""
    choices = [[choice for choice in point.choices if permitted(point, choice, row.name, told)] for point in points]
    if math.prod(len(each) for each in choices) > MAX_COMBINATIONS:
        return
    for combination in itertools.product(*choices):
        made = plan
        for point, choice in zip(points, combination, strict=True):
            made = made.but(point, choice)
        yield made


def coarse_again(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with one change more, to those that a choice at a point that stands alone has led to."""
    yield from coarse(row, ways, told)


def numbers_of_sums(order: str) -> Moves:
    """Return moves to other numbers of partial sums, each rounded, that are added in one order.

    Most of a number shows whatever the order, if they are few.
    """

    def moves(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
        numbers = {f"{n} {order}" for n in SHARDS}
        yield from _at_points(row, ways, told, lambda point, choice: point == SUMS and choice in numbers)

    return moves


def orders_of_sums(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with as many partial sums, added in another order or shared out otherwise."""
    counts = {plan.at(SUMS).partition(" ")[0] for plan in ways.plans.values()}
    yield from _at_points(
        row,
        ways,
        told,
        lambda point, choice: point == SUMS and choice.partition(" ")[0] in counts and not choice.endswith(ATOMICS),
    )


def as_elsewhere(plans: Sequence[RoundingPlan]) -> Moves:
    """Return moves to the plans that were found of a row for other stored forms of the weights."""

    def moves(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
        if row.name not in told[0].ways.plans:
            yield from (
                replace(ways, plans={**ways.plans, row.name: plan})
                for plan in plans
                if plan != ways.plans.get(row.name, AS_PUBLISHED)
            )

    return moves


def slow(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with another choice at a point that is slow to work out."""
    yield from _at_points(row, ways, told, lambda point, _choice: point.slow)


ROUNDINGS: tuple[Moves, ...] = (coarse, all_at_once, standing_alone, coarse_again)
"""The kinds of changes that cost little to try, in the order in which they are, while something is left to explain."""

FIRST_SUMS: tuple[Moves, ...] = (
    numbers_of_sums("at once"),
    orders_of_sums,
    *(numbers_of_sums(order + split) for split in ("", EVENLY) for order in HANDED_ON),
    numbers_of_sums("at once" + EVENLY),
    numbers_of_sums("at once" + SPREAD),
    numbers_of_sums("at once" + NEAREST),
    orders_of_sums,
    *(numbers_of_sums("at once" + blocks) for blocks in (*BLOCKS, IN_GROUPS, *DEALT_BLOCKS)),
)
"""What is tried after those."""

MORE_SUMS: tuple[Moves, ...] = tuple(
    numbers_of_sums(order + split) for split in ("", EVENLY) for order in ORDERS if order != "at once"
)
"""What is tried after those where some number of partial sums is likelier than none, and does not explain all."""


def approximations(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways that leave more open: a function or an accumulator approximated, sums in an order that is not known.

    An input that was carried, or computed again, belongs to them: by how much it differs is known less well.
    """
    yield from _at_points(
        row, ways, told, lambda point, choice: point.approximation or (point == SUMS and choice.endswith(ATOMICS))
    )
    yield from of_edges(row, ways, told)
    yield from of_caches(row, ways, told)
    yield from computed_again(row, ways, told)


def approximated_functions(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> list[Ways]:
    """Return those of the approximations that are of a function, as coarse as it may be."""
    return list(_at_points(row, ways, told, is_coarsest_function))


def at_once(ways: Ways, several: Sequence[Ways]) -> Ways:
    """Return ways with each change that some others make to them."""
    plans = {name: plan for each in several for name, plan in each.plans.items() if plan != ways.plans.get(name)}
    return replace(ways, plans={**ways.plans, **plans})


def is_coarsest_function(point: Point, choice: str) -> bool:
    """Return whether a choice is the last, which errs most, at a point of a function that may be approximated."""
    return point.approximation and point not in (ACCUMULATOR, UNSIGNED) and choice == list(point.choices)[-1]


def _at_points(
    row: Operation, ways: Ways, told: Sequence[Exhibit], wanted: Callable[[Point, str], bool]
) -> Iterator[Ways]:
    settled = told[0].ways.plans
    for name in sorted(told[0].needed([row.name])):
        if name in settled or (name != row.name and name not in told[0].hidden):
            continue
        plan = ways.plans.get(name, AS_PUBLISHED)
        for point in told[0].evidence.graph.by_name[name].points:
            for choice in point.choices:
                if wanted(point, choice) and choice != plan.at(point) and permitted(point, choice, name, told):
                    yield replace(ways, plans={**ways.plans, name: plan.but(point, choice)})


def permitted(point: Point, choice: str, row: str, told: Sequence[Exhibit]) -> bool:
    """Return whether a choice means anything: a narrow one in a narrow compute dtype, a dtype for such a cache.

    A wide result is one that is recorded in float32. A tanh of 2⁻¹¹ in float32 is seen where it is shown, or not taken.
    """
    graph = told[0].evidence.graph
    made = graph.by_name[row]
    split = made.through is not None and point == made.through[0]
    if split and any(not made.passed_over <= one.hidden for one in told):
        return False
    operation = made.tap
    if point.wide and any(one.evidence.recorded[operation] != "float32" for one in told):
        return False
    if choice == point.published:
        return True
    if choice == HARDWARE_TANH and all(one.evidence.config.fprop_dtype == "float32" for one in told):
        return not any(row in one.hidden for one in told)
    if choice in UNIT_ROUNDOFF:
        return all(one.evidence.recorded[name] == choice for one in told for name in graph.copies[:1])
    return not point.narrow or all(one.evidence.config.fprop_dtype != "float32" for one in told)
