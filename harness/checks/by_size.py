"""Ways that hang on the size of a call: engines have kernels for few tokens, and others for many."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.local import Local, fails, of_row
from grok_conformance.harness.checks.search import Found, checked_in, search
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, Calls, RoundingPlan, size_of_call
from grok_conformance.harness.graph.row import Operation

DECODING = Calls("t", 1)

KINDS = (DECODING, Calls("bt", sys.maxsize), Calls("t", sys.maxsize))
"""The kinds of calls that ways may hang on, in the order in which they are tried, with the largest limit of each."""


def by_size(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan], whole: Ways
) -> Found:
    """Look for ways of a row in small calls, and for others in all that are larger: engines have kernels for both.

    Where small calls end is told by what fails as published, or in the `whole` ways that are likeliest for all calls.
    """
    for base in (Ways(), whole) if whole != Ways() else (whole,):
        checked = checked_in(row, own, base, local, num_elements)
        for kind in KINDS:
            shapes = {(one.case.id, call): each.tokens.shape for one in own for call, each in enumerate(one.case.calls)}
            sizes = {at: size_of_call(shape, kind.axes) for at, shape in shapes.items()}
            compared = [((one.case.id, c.call), c.passed) for one in own for c in of_row(row.name, one, checked)]
            failing = {at for at, passed in compared if not passed}
            for within, searched in partitions(kind, [sizes[at] for at in failing], list(sizes.values())):
                parts = calls_of(own, sizes, within, inside=True), calls_of(own, sizes, within, inside=False)
                inner, outer = (
                    part(row, some, local, num_elements, known) if is_searched else base
                    for some, is_searched in zip(parts, searched, strict=True)
                )
                ways = None if inner is None or outer is None else joined(inner, outer, within)
                if ways is not None:
                    made = checked_in(row, own, ways, local, num_elements)
                    if not fails(row.name, own, made):
                        return Found(ways, own, made)
    return Found(Ways(), own)


def partitions(kind: Calls, failing: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[Calls, tuple[bool, bool]]]:
    """Yield the calls of a kind within which, or beyond which, a row fails, and in which of both ways are searched.

    Of the calls on that side, whose sizes are given, at least half must fail: in some few values may be right by
    chance. Between decoding and all else both are searched where both fail.
    """
    if not failing:
        return
    first, last, enough = min(failing), max(failing), 2 * len(failing)
    below = max((size for size in sizes if size < first), default=0)
    if last < max(sizes) and last <= kind.limit and enough >= sum(size <= last for size in sizes):
        yield Calls(kind.axes, last), (True, False)
    if 0 < below <= kind.limit and enough >= sum(size >= first for size in sizes):
        yield Calls(kind.axes, below), (False, True)
    if kind == DECODING and first <= kind.limit < last and enough >= len(sizes):
        yield kind, (True, True)


def calls_of(
    own: Sequence[Exhibit], sizes: Mapping[tuple[str, int], int], within: Calls, *, inside: bool
) -> list[Exhibit]:
    """Return the cases that have calls inside or outside of some, of which nothing else is looked at."""
    calls = {
        one.case.id: [at for at in range(len(one.case.calls)) if (sizes[one.case.id, at] <= within.limit) == inside]
        for one in own
    }
    return [replace(one, calls=calls[one.case.id]) for one in own if calls[one.case.id]]


def part(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan]
) -> Ways | None:
    """Return the ways of a row in the calls of some cases that are looked at, None where none pass."""
    if not fails(row.name, own, local):
        return Ways()
    found = search(row, own, local, num_elements, known)
    return None if found.checked is None else found.ways


def joined(inner: Ways, outer: Ways, within: Calls) -> Ways | None:
    """Return the ways that are one thing within some calls and another beyond, None if both read inputs otherwise.

    Programs are compiled for one token and for several: what these read may differ.
    """
    readings = {edge: read for ways, phase in ((inner, "decode"), (outer, "prefill"))
                for edge, read in ways.readings.items() if edge[0] == phase}  # fmt: skip
    if within != DECODING and inner.readings != outer.readings:
        return None
    plans: dict[str, RoundingPlan] = {}
    for name in {**inner.plans, **outer.plans}:
        one, other = (ways.plans.get(name, AS_PUBLISHED) for ways in (inner, outer))
        plans[name] = one if one == other else RoundingPlan(one.choices, within, other.choices)
    return Ways(plans, inner.readings if inner.readings == outer.readings else readings)
