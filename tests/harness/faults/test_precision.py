"""Faults of precision: each mutant differs from the oracle at the operations of its row and nowhere else."""

from __future__ import annotations

import pytest

from grok_conformance.harness.faults import ALL_FAULTS, FAULTS, Fault, precision
from tests.fault_detection.honest.zoo import ZOO
from tests.harness.faults.mutants import differing

OF_PREFILL = tuple(fault for fault in precision.FAULTS if "accumulated" not in fault.id)


@pytest.mark.parametrize("fault", OF_PREFILL, ids=lambda fault: fault.id)
def test_a_mutant_differs_from_the_oracle_at_the_operations_of_its_row_and_nowhere_else(fault: Fault) -> None:
    differs, changed = differing(fault, "float32")
    assert differs == changed
    assert changed


def test_a_narrow_accumulator_differs_most_where_it_is_rounded_most_often() -> None:
    names = [f"accumulated_in_bf16_every_{every}" for every in (1, 8, 16, 32)]
    assert set(names) < set(ALL_FAULTS)
    assert all("moe.expert_output" in differing(ALL_FAULTS[name], "bfloat16")[0] for name in names[:2])


def test_rows_of_precision_are_known_but_not_part_of_the_catalogue() -> None:
    assert not {fault.id for fault in precision.FAULTS} & set(FAULTS)
    assert {fault.id for fault in precision.FAULTS} <= set(ALL_FAULTS)


def test_every_fault_that_a_way_of_the_zoo_names_is_in_the_table_or_said_not_to_be() -> None:
    unknown = {way.fault for way in ZOO.values() if way.fault} - set(ALL_FAULTS)
    assert unknown == {"rounded_by_chance", "norm_root_12_bits"}  # errors that no function of the inputs predicts
