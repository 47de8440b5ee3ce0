"""Every fault put into the torch port is found at the operation that has it, nowhere else, and named."""

from __future__ import annotations

import pytest

from grok_conformance.harness.diagnosis.matched_filter import diagnose
from grok_conformance.harness.faults import FAULTS as TABLE
from tests.conformance.port_patch import patched
from tests.conformance.porting_faults import FAULTS
from tests.conformance.torch_cases import at_fault, exhibits

FAINT = {("norm_eps_1e6", "bfloat16"): {"moe.output_norm"}}
"""Where rounding hides a fault at some of its operations: an eps shows only in small inputs."""

TOO_FAINT_TO_NAME = {("norm_eps_1e6", "bfloat16")}
"""What is found and likeliest, but not named: its coefficient is 1.3 with a standard error of 0.2."""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_torch_port_is_found_at_its_operation_and_named(name: str, dtype: str) -> None:
    with patched(FAULTS[name]):
        shown, comparisons = exhibits(FAULTS[name].cases, dtype)
    found = at_fault([c for each in comparisons for c in each])
    assert found == FAINT.get((name, dtype), FAULTS[name].at)
    told = diagnose(shown, comparisons, found)
    if (name, dtype) in TOO_FAINT_TO_NAME:
        assert {(d.likeliest, d.faults) for d in told.values()} == {(name, ())}
    else:
        assert {x: d.likeliest for x, d in told.items() if name not in d.faults} == {}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_decided_for_the_highest_index_are_noted_and_named(dtype: str) -> None:
    with patched(FAULTS["top_k_tie_highest_index"]):
        shown, comparisons = exhibits(FAULTS["top_k_tie_highest_index"].cases, dtype)
    (noted,) = {c.operation for each in comparisons for c in each if c.note}
    assert diagnose(shown, comparisons, [noted])["moe.expert_index"].faults == ("top_k_tie_highest_index",)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_decided_for_the_highest_index_fail_the_case_that_tests_the_rule(dtype: str) -> None:
    with patched(FAULTS["top_k_tie_highest_index"]):
        shown, comparisons = exhibits("ties/prefill/tie_rule.*", dtype)
    assert at_fault([c for each in comparisons for c in each]) == {"moe.expert_index"}
    named = diagnose(shown, comparisons, ["moe.expert_index"])["moe.expert_index"].faults
    assert named == ("top_k_tie_highest_index",)


def test_every_fault_that_makes_sense_in_a_port_is_patched_into_one() -> None:
    assert set(TABLE) - set(FAULTS) == {name for name, fault in TABLE.items() if fault.harmless}
    assert len(FAULTS) >= 40
