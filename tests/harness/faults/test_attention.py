"""Faults of attention: each mutant differs from the oracle at the operations of its row and nowhere else."""

from __future__ import annotations

import pytest

from grok_conformance.harness.faults import Fault, attention
from tests.harness.faults.mutants import differing

MUTANTS = [fault for fault in attention.FAULTS if fault.changes]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("fault", MUTANTS, ids=lambda fault: fault.id)
def test_a_mutant_differs_from_the_oracle_at_the_operations_of_its_row_and_nowhere_else(
    fault: Fault, dtype: str
) -> None:
    differs, changed = differing(fault, dtype)
    assert differs == changed
    assert changed
