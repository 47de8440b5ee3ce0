"""What may be tried to explain a row: one change at a time, and nothing that is settled or not permitted."""

from __future__ import annotations

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.moves import (
    all_at_once,
    approximations,
    coarse,
    numbers_of_sums,
    orders_of_sums,
    standing_alone,
    with_ways,
)
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.rounding import (
    AS_PUBLISHED,
    ATOMICS,
    BLOCKS,
    DEALT_BLOCKS,
    EVENLY,
    HANDED_ON,
    IN_GROUPS,
    ORDERS,
    SPREAD,
    SUMS,
)
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, golden_taps

CASE = "unequal/prefill/padded_batch.bfloat16"
ROW = GROK_1.by_name["attention.output"]


def told() -> list[Exhibit]:
    preset, case = golden_case(CASE)
    return [Exhibit(preset, case, evidence_of(CASE, golden_taps(CASE)), exact_weights(preset.name, "bfloat16"))]


def test_a_coarse_move_changes_one_thing_and_no_partial_sums() -> None:
    moves = list(coarse(ROW, Ways(), told()))
    assert moves
    assert all(len(ways.plans) + len(ways.readings) >= 1 for ways in moves)
    assert {plan.at(SUMS) for ways in moves for plan in ways.plans.values()} <= {SUMS.published}


def test_numbers_of_partial_sums_come_before_their_orders() -> None:
    numbers = [ways.plans[ROW.name].at(SUMS) for ways in numbers_of_sums("at once")(ROW, Ways(), told())]
    assert numbers
    assert all(choice.endswith("at once") for choice in numbers)
    two = Ways({ROW.name: AS_PUBLISHED.but(SUMS, "2 at once")})
    orders = {ways.plans[ROW.name].at(SUMS) for ways in orders_of_sums(ROW, two, told())}
    added = {f"2 {order}{split}" for order in ORDERS for split in ("", EVENLY, SPREAD)}
    shared_out = {f"2 at once{blocks}" for blocks in (*BLOCKS, IN_GROUPS, *DEALT_BLOCKS)}
    handed = {f"2 {order}{split}" for order in HANDED_ON for split in ("", EVENLY)}
    assert orders == (added | shared_out | handed) - {"2 at once"}


def test_what_is_settled_is_not_tried_again() -> None:
    plan = AS_PUBLISHED.but(SUMS, "2 at once")
    settled = [with_ways(one, Ways({ROW.name: plan})) for one in told()]
    assert settled[0].ways.plans == {ROW.name: plan}
    assert list(numbers_of_sums("at once")(ROW, Ways(), settled)) == []


def test_approximations_are_moves_of_their_own() -> None:
    points = {point.name: point for point in ROW.points}
    for ways in approximations(ROW, Ways(), told()):
        for plan in ways.plans.values():
            assert all(points[name].approximation or made.endswith(ATOMICS) for name, made in plan.choices.items())


def test_ranks_with_experts_of_their_own_are_tried_by_themselves_and_not_among_the_other_roundings() -> None:
    row = GROK_1.by_name["moe.output"]
    before = [
        ways.plans[row.name].choices for ways in (*coarse(row, Ways(), told()), *all_at_once(row, Ways(), told()))
    ]
    assert not any("groups" in choices for choices in before)
    alone = [ways.plans[row.name].choices for ways in standing_alone(row, Ways(), told())]
    assert {choices["groups"] for choices in alone} == {
        "2", "4", "8", "2 in turn", "4 in turn", "8 in turn",
    }  # fmt: skip
    assert {"groups": "2", "sum": "by rank"} in alone
