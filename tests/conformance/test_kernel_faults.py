"""Faults of kernels in the torch port are found at their operations, nowhere else, and named."""

from __future__ import annotations

import pytest

from grok_conformance.candidates import torch_eager
from grok_conformance.harness.cases.sweeps import PREFIX
from grok_conformance.harness.checks.exhibit import Exhibit, exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.diagnosis.agreement import agreed
from grok_conformance.harness.diagnosis.matched_filter import diagnose
from grok_conformance.harness.faults import kernels
from grok_conformance.harness.judging.groups import Group, read_groups, sweep_groups
from tests.conformance.kernel_faults import KERNEL_FAULTS
from tests.conformance.port_patch import patched
from tests.conformance.torch_cases import NUM_ELEMENTS, at_fault, torch_taps
from tests.harness.honest_port import golden

TOO_FAINT = {("norm_eps_scaled", "bfloat16"), ("norm_eps_outside", "bfloat16")}
"""What rounding hides: of inputs about 1 the fault moves a norm by a hundredth of the rounding of bf16."""


def groups(pattern: str, dtype: str) -> list[Group]:
    if not pattern.startswith(PREFIX):
        return list(read_groups(golden(), pattern, dtype))
    return [group for seed in (0, 1) for group in sweep_groups(seed, pattern, dtype)]


def shown(pattern: str, dtype: str) -> list[Exhibit]:
    """Run the port, with the faults that it has, over cases of a dtype."""
    return [
        exhibit_of(group.preset, case, torch_eager.INFO, torch_taps(group.preset, case))
        for group in groups(pattern, dtype)
        for case in group.cases
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", KERNEL_FAULTS)
def test_a_fault_of_a_kernel_is_found_at_its_operations_and_named(name: str, dtype: str) -> None:
    with patched(KERNEL_FAULTS[name]):
        exhibits = shown(KERNEL_FAULTS[name].cases, dtype)
    comparisons = [check_case(one, num_elements=NUM_ELEMENTS) for one in exhibits]
    found = at_fault([c for each in comparisons for c in each])
    assert found == (set() if (name, dtype) in TOO_FAINT else KERNEL_FAULTS[name].at)
    right = {c.operation for each in comparisons for c in each} - found
    told = agreed({dtype: diagnose(exhibits, comparisons, found)}, right)[dtype]
    assert {operation: told[operation].faults for operation in found if name not in told[operation].faults} == {}


def test_a_gate_at_both_ends_is_not_taken_for_one_at_the_input_alone() -> None:
    with patched(KERNEL_FAULTS["gate_on_input_and_output"]):
        exhibits = shown(KERNEL_FAULTS["gate_on_input_and_output"].cases, "float32")
    comparisons = [check_case(one, num_elements=NUM_ELEMENTS) for one in exhibits]
    told = agreed({"float32": diagnose(exhibits, comparisons, ["moe.expert_up"])}, {"moe.output"})["float32"]
    assert told["moe.expert_up"].faults == ("gate_on_input_and_output",)


def test_every_kind_of_row_has_a_port_with_it() -> None:
    kinds = {name.rstrip("0123456789").rstrip("_") for name in KERNEL_FAULTS}
    missing = {fault.id for fault in kernels.FAULTS if fault.id.rstrip("0123456789").rstrip("_") not in kinds}
    assert missing == {f"merged_in_base_{base}_in_{count}" for base in ("e", "2") for count in (2, 4, 8)}
