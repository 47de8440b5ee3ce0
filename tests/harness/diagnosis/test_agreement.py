from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.diagnosis.agreement import agreed
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis

EPSILON = Diagnosis(("norm_eps_1e6",), "norm_eps_1e6", 1.0, 0.1, 0.1, 9.0, "no fault")
UNNAMED = replace(EPSILON, faults=(), coefficient=1.052, standard_error=0.0007)
GELU = Diagnosis(("gelu_erf",), "gelu_erf", 1.0, 0.1, 0.1, 9.0, "no fault")


def test_a_name_that_does_not_hold_in_another_dtype_is_taken_back() -> None:
    found = agreed({"bfloat16": {"moe.norm": EPSILON}, "float32": {"moe.norm": UNNAMED}})
    assert found["bfloat16"]["moe.norm"].faults == ()


def test_a_name_that_does_not_hold_at_another_operation_that_it_touches_is_taken_back() -> None:
    found = agreed({"float32": {"moe.norm": EPSILON, "final_norm": UNNAMED}})
    assert found["float32"]["moe.norm"].faults == ()


def test_a_fault_that_hardly_shows_at_another_operation_is_named_there_too() -> None:
    faint = replace(UNNAMED, coefficient=1.15, standard_error=0.21, log10_ratio=3.5, left_over=0.97)
    found = agreed({"bfloat16": {"moe.norm": EPSILON, "final_norm": faint}})["bfloat16"]
    assert {operation: each.faults for operation, each in found.items()} == {
        "moe.norm": ("norm_eps_1e6",), "final_norm": ("norm_eps_1e6",),
    }  # fmt: skip
    assert agreed({"bfloat16": {"final_norm": faint}})["bfloat16"]["final_norm"].faults == ()
    more = replace(faint, left_over=3.0)  # something else is wrong there
    assert agreed({"bfloat16": {"moe.norm": EPSILON, "final_norm": more}})["bfloat16"]["moe.norm"].faults == ()


def test_other_faults_elsewhere_take_nothing_back() -> None:
    other = replace(UNNAMED, likeliest="gelu_quick")
    diagnoses = {"float32": {"moe.norm": EPSILON, "moe.expert_hidden": GELU, "logits": other}}
    assert agreed(diagnoses) == diagnoses


def test_a_class_keeps_what_is_not_contradicted() -> None:
    both = replace(EPSILON, faults=("norm_eps_1e6", "norm_scale_plus_one"))
    found = agreed({"bfloat16": {"moe.norm": both}, "float32": {"moe.norm": UNNAMED}})
    assert found["bfloat16"]["moe.norm"].faults == ("norm_scale_plus_one",)


def test_of_a_class_those_give_way_that_touch_an_operation_which_is_right() -> None:
    names = ("gate_on_input", "gate_on_input_and_output")
    both = replace(EPSILON, faults=names, likeliest=names[0])
    diagnoses = {"float32": {"moe.expert_up": both}}
    assert agreed(diagnoses, {"moe.output"})["float32"]["moe.expert_up"].faults == names[1:]
    assert agreed(diagnoses)["float32"]["moe.expert_up"].faults == names
    alone = {"float32": {"moe.expert_up": replace(both, faults=names[:1])}}
    assert agreed(alone, {"moe.output"}) == alone
