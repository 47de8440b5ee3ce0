"""The way in which one operation is computed, from what it alone was given: few values, so few ways are tried."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import slack_of
from grok_conformance.harness.checks.search import COARSEST
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.graph.rounding import (
    AS_PUBLISHED,
    ATOMICS,
    SUMS,
    Point,
    RoundingPlan,
)
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.blocks import Pair
from grok_conformance.harness.measure.comparison import Comparison, compare, compare_routing
from grok_conformance.harness.measure.noise import tail_factor


def best_way(tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array]) -> tuple[Comparison, str]:
    """Return the comparison in the first permitted way that passes, and its name; the canonical one if none does."""
    canonical = compared_with(tap, scope, exhibit, values, AS_PUBLISHED)
    if canonical.passed or canonical.problem:
        return canonical, ""
    for plan, found in other_ways(tap, scope, exhibit, values):
        if found.passed:
            return found, plan.words(GROK_1.operation_of(tap, scope.config).points)
    return canonical, ""


def other_ways(
    tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array]
) -> Iterator[tuple[RoundingPlan, Comparison]]:
    """Yield what may be meant by ways other than the canonical one, and the comparisons in them.

    A way that reads what was not given is left out. Partial sums, of which there are hundreds, are tried where no more
    is wrong than they can make.
    """
    row, recorded = GROK_1.operation_of(tap, scope.config), exhibit.evidence.observed[0, tap].recorded
    points = [
        point
        for point in row.points
        if (scope.rounds or not point.narrow)
        and (recorded == "float32" or not point.wide)
        and (row.through is None or point != row.through[0])
    ]
    for plan in single_choices(points):
        yield plan, compared_with(tap, scope, exhibit, values, plan)
    if SUMS not in points or relative_error(tap, scope, exhibit, values) > COARSEST:
        return
    for choice in SUMS.choices:
        if choice != SUMS.published and not choice.endswith(ATOMICS):
            plan = AS_PUBLISHED.but(SUMS, choice)
            yield plan, compared_with(tap, scope, exhibit, values, plan)


def single_choices(points: Sequence[Point]) -> list[RoundingPlan]:
    """Return the plans with another choice at one point, then those at two, of points without partial sums.

    Choices that add an error are left out: without more data than one operation they might hide a fault.
    """
    singles = [
        (point, choice)
        for point in points
        if not (point.approximation or point.slow or point == SUMS)
        for choice in point.choices
        if choice not in (point.published, "float16")
    ]
    pairs = [(one, other) for one, other in itertools.combinations(singles, 2) if one[0] != other[0]]
    return [AS_PUBLISHED.but(*each) for each in singles] + [AS_PUBLISHED.but(*one).but(*other) for one, other in pairs]


def relative_error(tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array]) -> float:
    """Return how large the errors are beside the values, as root mean squares, where they are compared."""
    exact, seen = evaluate(tap, scope, exhibit.weights, values).value, exhibit.evidence.observed[0, tap].raw
    mask = np.broadcast_to(exhibit.evidence.masks[0, split_tap(tap)[1]], seen.shape)
    size = float(np.square(exact[mask]).sum())
    return float(np.sqrt(np.square(seen - exact)[mask].sum() / size)) if size else 0.0


def compared_with(
    tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array], plan: RoundingPlan
) -> Comparison:
    """Compare what was observed with the operation in one way; raises ValueError for another shape."""
    exact = evaluate(tap, scope, exhibit.weights, values, plan)
    seen = exhibit.evidence.observed[0, tap]
    mask = exhibit.evidence.masks[0, split_tap(tap)[1]]
    factor = tail_factor(seen.raw.size)
    if exact.value.shape != seen.raw.shape:
        return Comparison(0, tap, 0, problem=f"shape {list(seen.raw.shape)}, expected {list(exact.value.shape)}")
    if split_tap(tap)[1] == GROK_1.choice:
        (scores,) = values.values()
        return compare_routing(0, tap, scores, seen.raw, mask, slack_of(Exact(scores), None, factor))
    return compare(Pair((0, tap), SPECS[split_tap(tap)[1]].axes, exact, factor, seen.raw, mask, seen.recorded))
