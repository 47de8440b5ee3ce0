"""Ways that hang on the size of a call: engines have kernels for few tokens, and others for many."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import score, worst_by_tokens_of_expert
from grok_conformance.harness.checks.local import Local, fails, of_row, telling
from grok_conformance.harness.checks.moves import Moves, coarse, permitted, with_ways
from grok_conformance.harness.checks.rivals import faulty
from grok_conformance.harness.checks.search import Found, checked_in, promising, search
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.graph.rounding import (
    AS_PUBLISHED,
    EVENLY,
    RESULT,
    SUMS,
    Calls,
    RoundingPlan,
    size_of_call,
)
from grok_conformance.harness.graph.row import Operation

DECODING = Calls("t", 1)

LARGEST = (DECODING, Calls("bt", sys.maxsize), Calls("t", sys.maxsize))
"""The largest of the small calls that are thought of, along each axis, in the order in which they are tried."""

FEW_TOKENS = (1, 2, 3, 4, 8, 16)
"""Tokens of an expert up to which libraries may take another kernel."""

FEW_SUMS = (2, 3, 4, 8)
"""Partial sums into which such a kernel splits a product."""

WaysIn = Callable[[Sequence[Exhibit]], Ways | None]
"""Looks for ways of a row in some cases, of which it looks at some calls; None where no ways explain them."""

Sizes = Mapping[tuple[str, int], int]
"""The size of every call, by case id and number."""


def by_size(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan], whole: Ways
) -> Found:
    """Look for ways of a row in small calls, and for others in all that are larger: engines have kernels for both.

    The border lies where calls begin to fail, or to pass: first as published, then in `whole`, the ways that are
    likeliest for all calls. The side that passes so keeps these ways, for the other one ways are searched.
    """
    ways_in = remembering_failures(lambda part: ways_in_part(row, part, local, num_elements, known))
    for base in (Ways(), whole) if whole != Ways() else (whole,):
        checked, seen = checked_in(row, own, base, local, num_elements), set[Calls]()
        for largest in LARGEST:
            sizes, failing = sizes_of(row, own, checked, largest)
            for small, sides in borders(largest, failing, list(sizes.values())):
                if small in seen:
                    continue
                seen.add(small)
                inner, outer = (
                    ways_in(looking_at(own, sizes, small, inside=inside)) if fails_there else base
                    for inside, fails_there in zip((True, False), sides, strict=True)
                )
                ways = None if inner is None or outer is None else ways_by_size(inner, outer, small)
                if ways is not None:
                    made = checked_in(row, own, ways, local, num_elements)
                    if not fails(row.name, own, made) and not faulty(row, ways, telling(row.name, own, local)):
                        return Found(ways, own, made)
    return Found(Ways(), own)


def by_tokens_of_expert(row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, whole: Ways) -> Found:
    """Look for ways in experts of few tokens alone, or of more: a loop over experts has a kernel for each."""
    told = telling(row.name, own, local)
    for base in (Ways(), whole) if whole != Ways() else (whole,):
        tried = promising(row, told, evaluate, base, list(ways_by_tokens_of_expert(row, base, told)))
        scores = [score(row.name, [with_ways(one, ways) for one in told]) for ways in tried]
        explaining = [i for i, each in enumerate(scores) if each.explained]
        for place in sorted(explaining, key=lambda i: (scores[i].surprise, num_choices(row, tried[i]))):
            made = checked_in(row, own, tried[place], local, num_elements)
            if not fails(row.name, own, made) and not faulty(row, tried[place], told):
                return Found(tried[place], own, made)
    return Found(Ways(), own)


def num_choices(row: Operation, ways: Ways) -> int:
    """Return how many choices the plan of a row has: of what is alike the least is told."""
    plan = ways.plans[row.name]
    return len(plan.choices) + len(plan.beyond)


def ways_by_tokens_of_expert(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways that are otherwise in the experts of few tokens, or in those of more, the result rounded or not.

    Where the choice of experts is hidden nothing tells which side errs, and partial sums alone are tried.
    """
    found = ways.plans.get(row.name, AS_PUBLISHED)
    if not told or found.within is not None:
        return
    results = [
        choice for choice in RESULT.choices if RESULT in row.points and permitted(RESULT, choice, row.name, told)
    ]
    whole = found.but(SUMS, SUMS.published)
    for plan in [whole.but(RESULT, result) for result in results] or [whole]:
        base = replace(ways, plans={**ways.plans, row.name: plan})
        worst = worst_by_tokens_of_expert(row.name, [with_ways(one, base) for one in told])
        kinds = (few_sums, coarse, one_alone) if worst else (few_sums,)
        # Of limits that part the sizes that there are alike the first will do.
        limits = {tuple(size for size in worst if size <= limit) or limit: limit for limit in reversed(FEW_TOKENS)}
        for limit in sorted(limits.values()):
            few, sides = Calls("e", limit), parted(worst, limit)
            for other in map(dict, dict.fromkeys(plans_beside(row, base, told, kinds)) if any(sides) else ()):
                made = (RoundingPlan(other, few, plan.choices), RoundingPlan(plan.choices, few, other))
                yield from (
                    replace(ways, plans={**ways.plans, row.name: one})
                    for fails_there, one in zip(sides, made, strict=True)
                    if fails_there
                )


def few_sums(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with the partial sums of a row into which a kernel for few tokens splits a product."""
    for n, split in itertools.product(FEW_SUMS, ("", EVENLY) if SUMS in row.points else ()):
        choice = f"{n} at once{split}"
        if permitted(SUMS, choice, row.name, told):
            plan = ways.plans.get(row.name, AS_PUBLISHED).but(SUMS, choice)
            yield replace(ways, plans={**ways.plans, row.name: plan})


def one_alone(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> Iterator[Ways]:
    """Yield ways with a choice at a point that stands alone, and no other change."""
    plan = ways.plans.get(row.name, AS_PUBLISHED)
    for point in (point for point in row.points if point.alone):
        for choice in (choice for choice in point.choices if permitted(point, choice, row.name, told)):
            yield replace(ways, plans={**ways.plans, row.name: plan.but(point, choice)})


def plans_beside(
    row: Operation, base: Ways, told: Sequence[Exhibit], kinds: Sequence[Moves]
) -> Iterator[frozenset[tuple[str, str]]]:
    """Yield the choices of a row's plan alone to which some kinds of changes lead, each choice by its point."""
    for made in itertools.chain.from_iterable(kind(row, base, told) for kind in kinds):
        others = {name: plan for name, plan in made.plans.items() if name != row.name}
        if made.readings == base.readings and others == {n: p for n, p in base.plans.items() if n != row.name}:
            yield frozenset(made.plans.get(row.name, AS_PUBLISHED).choices.items())


def parted(worst: Mapping[int, float], limit: int) -> tuple[bool, bool]:
    """Return whether experts of at most so many tokens may be where all fails, and whether larger ones may.

    `worst` is the worst error over its fence by how many tokens an expert has; where that is not known, both may. Of
    the sizes on the side that fails at least half must: where few values are compared they may pass by chance.
    """
    sides = {small: [error > 1 for size, error in worst.items() if (size <= limit) == small] for small in (True, False)}
    if not worst:
        return True, True
    small, large = (any(side) and 2 * sum(side) >= len(side) for side in (sides[True], sides[False]))
    return small and not any(sides[False]), large and not any(sides[True])


def remembering_failures(search_in: WaysIn) -> WaysIn:
    """Return a search for ways in some calls that does not look again where no ways explain a part of them."""
    unexplained: list[frozenset[tuple[str, int]]] = []

    def found(part: Sequence[Exhibit]) -> Ways | None:
        calls = frozenset((one.case.id, call) for one in part for call in one.calls or ())
        if any(calls >= each for each in unexplained):
            return None
        ways = search_in(part)
        if ways is None:
            unexplained.append(calls)
        return ways

    return found


def sizes_of(row: Operation, own: Sequence[Exhibit], checked: Local, kind: Calls) -> tuple[Sizes, list[int]]:
    """Return the size of every call in which a row was compared, and those of the calls in which it fails."""
    compared = [(one, c) for one in own for c in of_row(row.name, one, checked) if c.num_elements and not c.problem]
    sizes = {(one.case.id, c.call): size_of_call(one.case.calls[c.call].tokens.shape, kind.axes) for one, c in compared}
    failing = {(one.case.id, c.call) for one, c in compared if not c.passed}
    return sizes, [sizes[at] for at in failing]


def borders(largest: Calls, failing: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[Calls, tuple[bool, bool]]]:
    """Yield borders between small and larger calls, and whether a row fails on either side, by the sizes of calls.

    Of the calls on a side that fails at least half must fail: where few values are compared they may pass by chance.
    Between decoding and all else both sides may fail.
    """
    if not failing:
        return
    first, last, enough = min(failing), max(failing), 2 * len(failing)
    below = max((size for size in sizes if size < first), default=0)
    if last < max(sizes) and last <= largest.limit and enough >= sum(size <= last for size in sizes):
        yield Calls(largest.axes, last), (True, False)
    if 0 < below <= largest.limit and enough >= sum(size >= first for size in sizes):
        yield Calls(largest.axes, below), (False, True)
    if largest == DECODING and first <= largest.limit < last and enough >= len(sizes):
        yield largest, (True, True)


def looking_at(own: Sequence[Exhibit], sizes: Sizes, small: Calls, *, inside: bool) -> list[Exhibit]:
    """Return the cases that have small calls, or larger ones, of which nothing else is looked at."""
    calls: dict[str, list[int]] = {one.case.id: [] for one in own}
    for (case, call), size in sizes.items():
        if (size <= small.limit) == inside:
            calls[case].append(call)
    return [replace(one, calls=calls[one.case.id]) for one in own if calls[one.case.id]]


def ways_in_part(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan]
) -> Ways | None:
    """Return the ways of a row in the calls of some cases that are looked at, None where none pass."""
    if not fails(row.name, own, local):
        return Ways()
    found = search(row, own, local, num_elements, known)
    return None if found.checked is None else found.ways


def ways_by_size(inner: Ways, outer: Ways, small: Calls) -> Ways | None:
    """Return the ways that are one thing in small calls and another in larger ones, None if both read inputs otherwise.

    Only at the border of decoding may readings differ: programs are compiled for one token and for several.
    """
    readings = {edge: read for ways, phase in ((inner, "decode"), (outer, "prefill"))
                for edge, read in ways.readings.items() if edge[0] == phase}  # fmt: skip
    if small != DECODING and inner.readings != outer.readings:
        return None
    plans: dict[str, RoundingPlan] = {}
    for name in {**inner.plans, **outer.plans}:
        one, other = (ways.plans.get(name, AS_PUBLISHED) for ways in (inner, outer))
        plans[name] = one if one == other else RoundingPlan(one.choices, small, other.choices)
    return Ways(plans, inner.readings if inner.readings == outer.readings else readings)
