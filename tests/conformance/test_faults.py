"""Every fault put into the torch port is found at the operation that has it, and nowhere else."""

from __future__ import annotations

import pytest

from candidates.torch_eager import model, operations
from tests.conformance.porting_faults import FAULTS
from tests.conformance.torch_cases import at_fault, check, golden_case, golden_cases, torch_taps


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", FAULTS)
def test_fault_in_the_torch_port_is_found_at_its_operation(
    name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    for module, patches in ((operations, fault.operations), (model, fault.model)):
        for function, replacement in patches.items():
            monkeypatch.setattr(module, function, replacement)
    found: set[str] = set()
    for case_id in golden_cases(fault.cases):
        if case_id.endswith(dtype):
            preset, case = golden_case(case_id)
            found |= at_fault(check(preset, case, torch_taps(preset, case)))
    assert found == fault.at
