from __future__ import annotations

from dataclasses import replace

import pytest

from grok_conformance.harness.cases.suite import UNEQUAL, make_preset
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.graph.grok_1 import OPERATIONS
from tests.benchmarks.cost import call_cost, operation_costs

PRESET = make_preset("unequal")
D, F, H, Q, G, E, C, V, S = 40, 160, 8, 12, 3, 5, 2, 101, 9


def test_the_flops_of_one_token_are_those_of_its_matrices() -> None:
    attention = D * Q * H + 2 * D * G * H + 2 * Q * H * S + Q * H * D
    experts = D * E + 3 * C * D * F + C * D
    assert call_cost(UNEQUAL, PRESET.weights, 1, 1).flops == 2 * (2 * (attention + experts) + D * V)


@pytest.mark.parametrize(("rows", "tokens"), [(1, 4), (3, 1), (2, 5)])
def test_flops_grow_with_the_tokens(rows: int, tokens: int) -> None:
    one, many = (call_cost(UNEQUAL, PRESET.weights, b, t).flops for b, t in ((1, 1), (rows, tokens)))
    assert many == rows * tokens * one


def test_a_token_reads_the_experts_that_it_chose_and_a_long_prompt_reads_all() -> None:
    def expert_bytes(num_tokens: int) -> int:
        costs = operation_costs(UNEQUAL, PRESET.weights, 1, num_tokens)
        return costs["layers.00.moe.expert_up"].weight_bytes

    stored = E * D * F + 2 * E * F  # int8, and bf16 scales
    assert expert_bytes(1) == stored * C // E
    assert expert_bytes(100) == stored


def test_a_dense_block_costs_its_three_matrices() -> None:
    preset = make_preset("dense")
    costs = operation_costs(preset.config, preset.weights, 1, 1)
    dense = ("dense.activation", "dense.up", "moe.output")
    flops = [cost.flops for tap, cost in costs.items() if tap.startswith("layers.00") and split_tap(tap)[1] in dense]
    assert flops == [2 * D * F] * 3


def test_values_are_counted_in_the_compute_dtype() -> None:
    wide = replace(UNEQUAL, fprop_dtype="float32")
    narrow, double = (call_cost(config, PRESET.weights, 1, 4).value_bytes for config in (UNEQUAL, wide))
    assert double == 2 * narrow


def test_every_contraction_of_the_graph_states_its_products_over_known_axes() -> None:
    known = {*UNEQUAL.axis_sizes, "b", "t"}
    with_matrix = [row for row in OPERATIONS if any(name.endswith("/w") for name in row.weights)]
    assert all(row.products for row in with_matrix)
    assert all(set(row.products) <= known for row in OPERATIONS)
