from __future__ import annotations

import numpy as np

from grok_conformance.harness.graph.by_expert import in_experts
from grok_conformance.harness.graph.rounding import Calls, RoundingPlan
from grok_conformance.harness.graph.row import Exact

INDEX = np.array([[[0, 4], [4, 2], [4, 7]]])  # [b, t, c]: expert 4 has three tokens, the others one each


def by_choice(plan: RoundingPlan) -> Exact:
    """Return 1 for every feature where an operand is rounded, 0 where none is."""
    rounds = plan.choices.get("operands") == "compute"
    return Exact(np.full((1, 3, 2, 5), float(rounds)), jump=0.5 * rounds)


def test_an_expert_of_few_tokens_follows_one_part_of_a_plan_and_the_others_the_other() -> None:
    plan = RoundingPlan({"operands": "compute"}, Calls("e", 2))
    exact = in_experts(plan, INDEX, by_choice)
    assert exact.value[..., 0].tolist() == [[[1, 0], [0, 1], [0, 1]]]
    assert np.array_equal(exact.jump, exact.value / 2)


def test_the_border_is_the_last_number_of_few_tokens() -> None:
    plan = RoundingPlan({}, Calls("e", 3), {"operands": "compute"})
    assert not in_experts(plan, INDEX, by_choice).value.any()
    larger = RoundingPlan({}, Calls("e", 2), {"operands": "compute"})
    assert in_experts(larger, INDEX, by_choice).value[..., 0].tolist() == [[[0, 1], [1, 0], [1, 0]]]
