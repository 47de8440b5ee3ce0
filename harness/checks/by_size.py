"""Ways that hang on the size of a call: engines have kernels for few tokens, and others for many."""

from __future__ import annotations

import sys
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.local import Local, fails, of_row
from grok_conformance.harness.checks.search import NUM_ROUNDS, Found, checked_in, search
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, Calls, RoundingPlan, size_of_call
from grok_conformance.harness.graph.row import Operation

DECODING = Calls("t", 1)

KINDS = (DECODING, Calls("bt", sys.maxsize), Calls("t", sys.maxsize))
"""The kinds of calls that ways may hang on, in the order in which they are tried, with the largest limit of each."""


def by_size(
    row: Operation, own: Sequence[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan]
) -> Found:
    """Look for ways of a row in small calls, and for others in all that are larger: engines have kernels for both.

    How small is found too: the ways of the smallest calls hold as far as they pass, and if no others pass beyond, calls
    of one size more are taken to be small.
    """
    for kind in KINDS:
        shapes = {(one.case.id, call): each.tokens.shape for one in own for call, each in enumerate(one.case.calls)}
        sizes = {at: size_of_call(shape, kind.axes) for at, shape in shapes.items()}
        small = min(sizes.values())
        for _ in range(NUM_ROUNDS):
            inner = part(row, calls_of(own, sizes, range(small + 1)), local, num_elements, known)
            if inner is None:
                break
            checked = checked_in(row, own, inner, local, num_elements)
            compared = [(one.case.id, c) for one in own for c in of_row(row.name, one, checked)]
            failing = {sizes[case, c.call] for case, c in compared if not c.passed}
            if not failing or min(failing) <= small:
                break
            within = Calls(kind.axes, max(size for size in sizes.values() if size < min(failing)))
            if within.limit > kind.limit:
                break
            larger = calls_of(own, sizes, range(within.limit + 1, max(sizes.values()) + 1))
            outer = part(row, larger, local, num_elements, known)
            ways = None if outer is None else joined(inner, outer, within)
            if ways is not None:
                checked = checked_in(row, own, ways, local, num_elements)
                if not fails(row.name, own, checked):
                    return Found(ways, own, checked)
            small = min(failing)
    return Found(Ways(), own)


def calls_of(own: Sequence[Exhibit], sizes: Mapping[tuple[str, int], int], wanted: Container[int]) -> list[Exhibit]:
    """Return the cases that have calls of some sizes, of which nothing else is looked at."""
    calls = {one.case.id: [at for at in range(len(one.case.calls)) if sizes[one.case.id, at] in wanted] for one in own}
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
