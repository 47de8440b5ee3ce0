"""Faults of kernels: each mutant differs from the oracle at the operations of its row and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import FAULTS, Fault, kernels
from tests.harness.faults.mutants import differing

OF_ITS_SIZE = tuple(fault for fault in kernels.FAULTS if "tiles" not in fault.id or fault.id.endswith("_4"))


@pytest.mark.parametrize("fault", OF_ITS_SIZE, ids=lambda fault: fault.id)
def test_a_mutant_differs_from_the_oracle_at_the_operations_of_its_row_and_nowhere_else(fault: Fault) -> None:
    differs, changed = differing(fault, "float32")
    assert differs == changed
    assert changed


def test_rows_of_kernels_are_known_but_not_part_of_the_catalogue() -> None:
    assert not {fault.id for fault in kernels.FAULTS} & set(FAULTS)


def test_parts_hold_every_slot_once() -> None:
    def slots(parts: kernels.Parts) -> list[int]:
        return np.concatenate([np.arange(11)[part] for part in parts(11)]).tolist()

    assert slots(kernels.in_blocks(4)) == slots(kernels.in_splits(4)) == list(range(11))
    assert [part.stop - part.start for part in kernels.in_blocks(4)(11)] == [4, 4, 3]


def test_scales_of_other_tiles_are_the_same_scales_in_another_order() -> None:
    scales: Array = np.arange(12.0).reshape(1, 12)
    assert kernels.in_tiles(4)(scales, 8).tolist() == [[0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11]]
    assert kernels.in_tiles(5)(scales, 8).tolist() == kernels.in_tiles(12)(scales, 8).tolist() == scales.tolist()
