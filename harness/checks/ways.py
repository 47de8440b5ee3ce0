"""Which ways a candidate computes each operation in: a rounding plan, and what it read of every input.

Ways are looked for only where an operation fails as the specification asks for it. What is found holds for all the data
of one compute dtype and stored form of the weights, or for all calls up to some size and all beyond; it is never mixed
otherwise, and always reported.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from grok_conformance.harness.checks.by_size import by_size, by_tokens_of_expert
from grok_conformance.harness.checks.edges import of_caches, only_recorded
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.likelihood import score
from grok_conformance.harness.checks.local import Local, fails, telling, worst
from grok_conformance.harness.checks.moves import approximated_functions, approximations, at_once, with_ways
from grok_conformance.harness.checks.rivals import faulty
from grok_conformance.harness.checks.search import (
    COARSEST,
    LARGEST_SEGMENT,
    NUM_ROUNDS,
    Found,
    checked_in,
    is_used,
    search,
)
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Operation

FEW_FENCES = 4.0
"""How far a rounding elsewhere may stray, over fences that hold the roundings of many hidden rows already."""


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
    rounding = [row for row in graph.operations if row.name != graph.choice]  # no choice of experts is rounded
    for row in sorted(rounding, key=lambda row: not row.is_stream):
        for form in dict.fromkeys(one.form_of(row) for one in exhibits):
            own = [one for one in found.values() if one.form_of(row) == form]
            if fails(row.name, own, local):
                chosen, local = choose_way(row, own, local, num_elements, plans_of(row, found.values()))
                found |= {one.case.id: one for one in chosen}
    return list(found.values()), local


def functions_that_explain(row: Operation, ways: Ways, told: Sequence[Exhibit]) -> list[Ways]:
    """Return ways with one function approximated each, none if all of them at once leave something open.

    Where hidden rows make much of an error its size tells nothing, and one look at all spares one at each.
    """
    apart = approximated_functions(row, ways, told)
    together = at_once(ways, apart)
    return apart if score(row.name, [with_ways(one, together) for one in told]).explained else []


def plans_of(row: Operation, exhibits: Iterable[Exhibit]) -> list[RoundingPlan]:
    """Return the plans that were found of a row in some cases, each once."""
    plans: list[RoundingPlan] = []
    for one in exhibits:
        plan = one.ways.plans.get(row.name)
        if plan is not None and plan.within is None and plan not in plans:
            plans.append(plan)
    return plans


def choose_way(
    row: Operation, own: list[Exhibit], local: Local, num_elements: int, known: Sequence[RoundingPlan] = ()
) -> tuple[list[Exhibit], Local]:
    """Return the exhibits of one form with the way of a row added if one passes, and all comparisons then.

    `known` are the plans of the row that were found for other forms.
    """
    told = telling(row.name, own, local)
    segment = len(own[0].needed([row.name]))
    coarse = bool(told) and score(row.name, told).relative > COARSEST
    if coarse and segment <= LARGEST_SEGMENT:  # more is wrong than any way can make
        return own, local
    if coarse and max(worst(row.name, one, local) for one in told) > FEW_FENCES:
        first = Found(Ways(), told)
    else:
        first = search(row, own, local, num_elements, known)
    if first.checked is not None:
        return [with_ways(one, first.ways) for one in own], first.checked
    # A truncating sum is a bias that no single element may show, and of what is only recorded nothing is known.
    told = list(first.told)
    if coarse:
        tried: Sequence[Ways] = functions_that_explain(row, first.ways, told)
    else:
        tried = (*of_caches(row, Ways(), told), *approximations(row, first.ways, told))
    used = [each for each in tried if is_used(row, each, told)]
    for unknown in used if coarse else (*used, *only_recorded(row, first.ways, told)):
        checked = checked_in(row, own, unknown, local, num_elements)
        if not fails(row.name, own, checked) and not faulty(row, unknown, told):
            return [with_ways(one, unknown) for one in own], checked
    if segment > LARGEST_SEGMENT:
        return own, local
    found = by_size(row, own, local, num_elements, known, first.ways)
    if found.checked is None and own[0].evidence.graph.reads_experts(row):
        found = by_tokens_of_expert(row, own, local, num_elements, first.ways)
    return (own, local) if found.checked is None else ([with_ways(one, found.ways) for one in own], found.checked)
