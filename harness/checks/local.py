"""The local check of every case: what of a row fails in it, which cases tell most, and how it is made again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.pooling import pooled_systematic
from grok_conformance.harness.measure.comparison import Comparison

Local = dict[str, list[Comparison]]
"""The local check of every case, by case id."""

NUM_TELLING = 2
"""Cases in which ways are told apart at first; one in which what was found fails joins them."""


def of_row(row: str, one: Exhibit, local: Local) -> list[Comparison]:
    """Return the comparisons of a row in the calls of a case that are looked at."""
    taps = one.evidence.graph.taps_of_rows(one.evidence.config).get(row, frozenset())
    return [c for c in local[one.case.id] if c.tap in taps and one.looks_at(c.call)]


def telling(row: str, own: Sequence[Exhibit], local: Local) -> list[Exhibit]:
    """Return the cases in which a row is worst, or where none fails alone those with the most of it."""
    having = [one for one in own if any(not c.problem for c in of_row(row, one, local))]

    def rank(one: Exhibit) -> tuple[bool, float]:
        size = sum(c.num_elements for c in of_row(row, one, local))
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
    own = [(one, c) for one in exhibits for c in of_row(row, one, local)]
    return any(not c.passed and not c.problem for _, c in own) or fail_together(own)


def fail_together(own: Sequence[tuple[Exhibit, Comparison]]) -> bool:
    """Return whether the systematic statistic over all comparisons of a row fails."""
    pooled = pooled_systematic([(one.case.id, c) for one, c in own], own[0][0].evidence.graph) if own else ()
    return any(not one.ratio <= 1 for one in pooled)


def worst(row: str, one: Exhibit, local: Local) -> float:
    """Return the worst measured / allowed of a row in a case, problems that no number can say apart."""
    return max((c.ratio for c in of_row(row, one, local) if not c.problem), default=0.0)


def failing_together(exhibits: Sequence[Exhibit], local: Local) -> set[str]:
    """Return the operations whose systematic statistic fails over all cases."""
    rows: dict[str, list[tuple[Exhibit, Comparison]]] = {}
    for one in exhibits:
        for comparison in local[one.case.id]:
            rows.setdefault(one.row_of(comparison), []).append((one, comparison))
    return {c.operation for own in rows.values() if fail_together(own) for _, c in own}
