from __future__ import annotations

import pytest

from grok_conformance.harness.graph.grok_1 import GROK_1
from tests.fault_detection.experiments import IN_THE_ORACLE
from tests.fault_detection.foreign_plans import PLANS, ForeignPlan, in_a_foreign_plan, merged, page, tasks, wrong


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_a_plan_names_points_and_choices_that_exist(plan: ForeignPlan) -> None:
    for row, made in plan.plans.items():
        points = {point.name: point for point in GROK_1.by_name[row].points}
        assert all(choice in points[name].choices for name, choice in made.choices.items())


def test_every_fault_meets_every_plan_and_a_share_of_them_is_staggered() -> None:
    assert len(tasks(1)) == 2 * len(PLANS) * (1 + len(IN_THE_ORACLE))
    few = tasks(len(PLANS), ["bfloat16"])
    assert {fault for fault, _, _ in few} == {"", *IN_THE_ORACLE}
    assert {plan for _, plan, _ in few} == set(PLANS)


def test_a_fault_in_a_port_that_rounds_as_tensor_parallel_ranks_do_is_found_and_named_and_the_port_passes() -> None:
    honest = in_a_foreign_plan("", "tp8", "bfloat16")
    faulty = in_a_foreign_plan("attention_multiplier_on_output", "tp8", "bfloat16")
    assert (honest.detected, faulty.detected, faulty.named) == (False, True, True)


def test_a_fault_that_a_plan_absorbs_and_an_honest_port_that_fails_are_wrong() -> None:
    row = {"fault": "gelu_erf", "plan": "tp8", "fprop_dtype": "bfloat16", "detected": False, "named": False,
           "operations": []}  # fmt: skip
    assert wrong([row]) == ["gelu_erf in the plan tp8 in bfloat16: absorbed"]
    assert wrong([{**row, "fault": "", "detected": True, "operations": ["logits"]}])
    assert wrong([{**row, "detected": True}]) == []
    assert merged([row], [{**row, "detected": True}]) == [{**row, "detected": True}]
    assert "Not detected: gelu_erf in tp8, bfloat16." in page([row])
