"""Ways that hang on the size of a call: kernels for few tokens, and others for many."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from grok_conformance.harness.checks.by_size import DECODING, borders, parted, remembering_failures, ways_by_size
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, SUMS, Calls, RoundingPlan
from tests.harness.checks.plan_ports import CASE, DECODE, choose, passed, shown

SPLIT = {"sums": "3 at once"}
WHOLE = "unequal/chunked/two_chunks.bfloat16"
SMALL = "square/prefill/padded_batch.bfloat16"
ONE_ROW = "realistic/prefill/near_ties.bfloat16"

PLANS = {
    "split where one token is decoded": RoundingPlan(SPLIT, DECODING),
    "split in all but decoding": RoundingPlan({}, DECODING, SPLIT),
    "split otherwise in all but decoding": RoundingPlan({"sums": "4 in turn"}, DECODING, SPLIT),
}


def test_a_kernel_for_few_tokens_in_all_is_told_by_their_number() -> None:
    plans = {"attention.query": RoundingPlan(SPLIT, Calls("bt", 10))}
    exhibits, local = choose(*(shown(case, plans) for case in (SMALL, CASE, DECODE, ONE_ROW)))
    assert passed(local)
    assert {one.ways.plans["attention.query"].words([SUMS]) for one in exhibits} == {
        "3 partial sums, each rounded, added in float32 in calls of at most 10 tokens"
    }


@pytest.mark.parametrize("name", PLANS)
def test_a_kernel_for_few_tokens_is_told_from_that_for_many(name: str) -> None:
    plans = {"attention.query": PLANS[name]}
    exhibits, local = choose(*(shown(case, plans) for case in (CASE, DECODE, WHOLE)))
    assert passed(local)
    assert [one.ways for one in exhibits] == [Ways(plans)] * 3


@pytest.mark.parametrize(
    "plan",
    [
        RoundingPlan({"sums": "2 at once", "result": "rounded"}, Calls("e", 2), {"result": "rounded"}),
        RoundingPlan({}, Calls("e", 1), {"sums": "3 at once"}),
        RoundingPlan({"operands": "compute"}, Calls("e", 1)),
        RoundingPlan({"scales": "sums"}, Calls("e", 2)),
    ],
)
def test_a_kernel_for_experts_of_few_tokens_is_told_by_their_number(plan: RoundingPlan) -> None:
    plans = {"moe.expert_output": plan}
    exhibits, local = choose(*(shown(case, plans) for case in (CASE, DECODE, WHOLE)))
    assert passed(local)
    assert [one.ways for one in exhibits] == [Ways(plans)] * 3


def test_a_kernel_that_hangs_on_nothing_but_chance_is_not_explained() -> None:
    exhibits, local = choose(shown(CASE, {"attention.query": RoundingPlan(SPLIT)}), shown(WHOLE))
    assert not passed(local)
    assert [one.ways for one in exhibits] == [Ways()] * 2


def test_calls_are_told_by_their_tokens_in_a_row_or_in_all() -> None:
    assert DECODING.hold((9, 1))
    assert not DECODING.hold((1, 2))
    assert Calls("bt", 8).hold((4, 2))
    assert not Calls("bt", 8).hold((3, 3))


def test_a_plan_for_experts_of_few_tokens_holds_in_every_call() -> None:
    plan = RoundingPlan(SPLIT, Calls("e", 2))
    assert plan.in_call((1, 1)) == plan
    assert plan.hangs_on_the_batch
    assert plan.words([SUMS]) == "3 partial sums, each rounded, added in float32 in experts of at most 2 tokens"
    assert plan.hangs_on_experts
    assert not RoundingPlan(SPLIT, DECODING).hangs_on_experts


def test_a_plan_for_some_calls_says_for_which() -> None:
    plan = RoundingPlan(SPLIT, Calls("bt", 8), {"sums": "2 at once"})
    assert plan.in_call((2, 4)) == RoundingPlan(SPLIT)
    assert plan.in_call((3, 3)) == RoundingPlan({"sums": "2 at once"})
    assert RoundingPlan(SPLIT, DECODING).in_call((1, 2)) == AS_PUBLISHED
    assert plan.words([SUMS]) == (
        "3 partial sums, each rounded, added in float32 in calls of at most 8 tokens, "
        "2 partial sums, each rounded, added in float32 in larger calls"
    )


def test_ways_that_read_otherwise_are_joined_only_by_phase() -> None:
    read = Ways(readings={("decode", "moe.norm", "attention.residual"): "carried"})
    assert ways_by_size(read, Ways(), DECODING) == read
    assert ways_by_size(read, Ways(), Calls("bt", 8)) is None


EVERY = Calls("bt", 1000)


@pytest.mark.parametrize(
    ("kind", "failing", "passing", "told"),
    [
        (EVERY, [2, 4], [6, 8], [(Calls("bt", 4), (True, False))]),
        (EVERY, [6, 8], [2, 4], [(Calls("bt", 4), (False, True))]),
        (EVERY, [2, 8], [4], []),  # at both ends: it hangs on something else
        (EVERY, [4], [1, 2, 3, 8, 9], []),  # most that is as small passes
        (EVERY, [2, 4], [3, 8], [(Calls("bt", 4), (True, False))]),  # few values may pass by chance
        (DECODING, [1, 1], [5], [(DECODING, (True, False))]),
        (DECODING, [5], [1], [(DECODING, (False, True))]),
        (DECODING, [1, 5], [], [(DECODING, (True, True))]),
        (DECODING, [2], [5], []),
        (DECODING, [], [1, 5], []),
    ],
)
def test_small_and_large_calls_are_parted_where_most_of_one_side_fails_and_nothing_of_the_other(
    kind: Calls, failing: list[int], passing: list[int], told: list[tuple[Calls, tuple[bool, bool]]]
) -> None:
    assert list(borders(kind, failing, [*failing, *passing])) == told


def test_where_no_ways_explain_some_calls_none_are_looked_for_in_more_of_them() -> None:
    port, asked = shown(WHOLE), list[int]()

    def search_in(part: Sequence[Exhibit]) -> Ways | None:
        asked.append(len(part[0].calls or ()))
        return Ways() if asked[-1] == 1 and part[0].looks_at(0) else None

    found = remembering_failures(search_in)
    looking = [[replace(port, calls=calls)] for calls in ((0,), (1,), (0, 1), (0,))]
    assert [found(part) for part in looking] == [Ways(), None, None, Ways()]
    assert asked == [1, 1, 1]


def test_experts_are_parted_by_their_tokens_where_one_side_fails_and_the_other_does_not() -> None:
    assert parted({1: 9.0, 2: 3.0, 5: 0.4}, 2) == (True, False)
    assert parted({1: 0.9, 2: 0.1, 5: 7.0}, 2) == (False, True)
    assert parted({1: 9.0, 2: 3.0, 5: 0.4}, 1) == (False, False)
    assert parted({1: 9.0, 2: 0.3, 3: 0.2, 5: 0.4}, 4) == (False, False)  # most of the small ones pass
    assert parted({}, 3) == (True, True)  # what is not known
