"""A fault becomes an oracle that has it, wholly or by a dose, from a layer on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.faults import FAULTS, Change, change_of, mutant
from grok_conformance.harness.faults.fault import changes_at
from grok_conformance.harness.graph.oracle import walk
from tests.harness.honest_port import exact_weights, golden_case


def test_the_same_change_may_be_made_at_several_operations() -> None:
    assert changes_at("moe.norm", "output") == {"moe.norm": Change(), "output": Change()}


def test_layers_before_the_first_faulty_one_are_right() -> None:
    weights = exact_weights("unequal", "float32")
    fault = replace(FAULTS["gelu_erf"], changes={"moe.expert_hidden": Change(first_layer=1)})
    assert change_of(fault, "layers.00.moe.expert_hidden", weights) is None
    assert change_of(fault, "layers.01.moe.expert_hidden", weights) == Change(first_layer=1)
    assert change_of(fault, "layers.01.moe.norm", weights) is None


def test_a_row_of_the_dense_block_is_visible_at_the_tap_it_makes() -> None:
    assert "moe.output" in FAULTS["all_reduce_missing"].operations
    assert "dense.output" not in FAULTS["all_reduce_missing"].operations


def test_a_dose_of_a_fault_moves_a_result_that_part_of_the_way() -> None:
    case_id = "stress/prefill/saturated_cap.float32"
    preset, case = golden_case(case_id)
    exact = {(call, tap): value for call, tap, _, value in walk(preset, case)}

    def hidden(dose: float) -> np.ndarray:
        made = walk(preset, case, lambda *key: exact[key], evaluator=mutant(replace(FAULTS["gelu_quick"], dose=dose)))
        return np.concatenate([x.value.ravel() for _, tap, x, _ in made if tap.endswith("expert_hidden")])

    right, half, whole = (hidden(dose) for dose in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(half, (right + whole) / 2, atol=1e-12)
    assert np.abs(whole - right).max() > 1e-3
