"""Which permitted way a candidate computes each operation: one alternative, and one reading of every edge.

Ways are tried only where an operation fails as the specification asks for it. What is chosen holds for all the data of
one compute dtype, readings for one phase of it; it is never mixed, and always reported.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.pooling import pooled_systematic
from grok_conformance.harness.checks.readings import PHASES, possible
from grok_conformance.harness.graph.row import CANONICAL, Alternative, Operation
from grok_conformance.harness.measure.comparison import Comparison

Local = dict[str, list[Comparison]]
"""The local check of every case, by case id."""


def choose_ways(shown: Sequence[Exhibit], local: Local, num_elements: int) -> tuple[Ways, Local]:
    """Return for every row that fails canonically the first way that passes everywhere, and the comparisons then.

    Rows are taken in the order of the graph, since what a row carries to the next depends on what it read itself.
    """
    ways = Ways()
    for row in shown[0].evidence.graph.operations if shown else ():
        if fails(row.name, shown, local):
            ways, local = choose_way(row, ways, shown, local, num_elements)
    return ways, local


def choose_way(
    row: Operation, ways: Ways, shown: Sequence[Exhibit], local: Local, num_elements: int
) -> tuple[Ways, Local]:
    """Return the ways with that of one row added, if there is one that passes, and all comparisons then.

    Readings are tried where a compiler may keep more than it shows; taps in float32 leave it nothing to keep, and
    around hidden taps nothing can be told apart.
    """
    fused = all(
        one.evidence.fused and one.evidence.config.fprop_dtype != "float32" and not one.hides_taps for one in shown
    )
    for alternative in permitted(row.alternatives, shown):
        named = ways if alternative == CANONICAL else Ways({**ways.alternatives, row.name: alternative}, ways.readings)
        found = None if named is ways else passing(row, PHASES, named, shown, local, num_elements)
        if found is None and fused:
            named, found = read_edges(row, named, shown, local, num_elements)
        if found is not None and not fails_together(row.name, shown, found):
            return named, found
    return ways, local


def permitted(alternatives: Sequence[Alternative], shown: Sequence[Exhibit]) -> list[Alternative]:
    """Return the alternatives that a candidate's declarations allow: operands like the cache need such a cache."""
    caches = {one.evidence.recorded[name] for one in shown for name in one.evidence.graph.copies[:1]}
    return [each for each in alternatives if each.operands in ("shown", "fprop") or caches == {each.operands}]


def read_edges(
    row: Operation, ways: Ways, shown: Sequence[Exhibit], local: Local, num_elements: int
) -> tuple[Ways, Local | None]:
    """Return the ways with the first readings of a row's edges that pass, phase by phase, and all comparisons then."""
    found: Local | None = local
    for phase in PHASES:
        for readings in possible(shown[0].evidence.graph, row, phase):
            tried = Ways(ways.alternatives, {**ways.readings, **readings})
            found = passing(row, (phase,), tried, shown, local, num_elements)
            if found is not None:
                ways, local = tried, found
                break
        if found is None:
            break
    return ways, found


def fails(row: str, shown: Sequence[Exhibit], local: Local) -> bool:
    """Return whether a row fails in a way that another way to compute it could mend."""
    own = [c for one in shown for c in local[one.case.id] if one.row_of(c) == row]
    return any(not c.passed and not c.problem for c in own) or fails_together(row, shown, local)


def fails_together(row: str, shown: Sequence[Exhibit], local: Local) -> bool:
    """Return whether the systematic statistic of a row fails over all its comparisons."""
    own = [(one.case.id, c) for one in shown for c in local[one.case.id] if one.row_of(c) == row]
    return any(not one.ratio <= 1 for one in pooled_systematic(own, shown[0].evidence.graph))


def passing(
    row: Operation, phases: Sequence[str], ways: Ways, shown: Sequence[Exhibit], local: Local, num_elements: int
) -> Local | None:
    """Return all comparisons with those of a row and some phases made anew, None as soon as one of them fails."""
    better = dict(local)
    for one in sorted(shown, key=lambda one: -worst(row.name, one, local)):
        if not any(one.row_of(comparison) == row.name for comparison in local[one.case.id]):
            continue
        found = check_case(replace(one, ways=ways), num_elements=num_elements, only=(row.name,))
        own = {(c.call, c.tap): c for c in found if one.row_of(c) == row.name and one.phase(c) in phases}
        if any(not comparison.passed and not comparison.problem for comparison in own.values()):
            return None
        better[one.case.id] = [own.get((c.call, c.tap), c) for c in local[one.case.id]]
    return better


def worst(row: str, one: Exhibit, local: Local) -> float:
    """Return the worst measured / allowed of a row in a case."""
    return max((c.ratio for c in local[one.case.id] if one.row_of(c) == row), default=0.0)


def failing_together(shown: Sequence[Exhibit], local: Local) -> set[str]:
    """Return the operations whose systematic statistic fails over all cases."""
    rows = {(one.row_of(c), c.operation) for one in shown for c in local[one.case.id]}
    return {operation for row, operation in rows if fails_together(row, shown, local)}
