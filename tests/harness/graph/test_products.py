from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import contract, round_to, rounded
from grok_conformance.harness.graph.products import (
    chunk_of,
    contract_in_parts,
    contract_unscaled,
    partial_sums,
    product_by_expert,
)
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Scope
from grok_conformance.harness.graph.sharing import evenly, in_tiles


def bf16(x: Array) -> Array:
    return round_to(x, "bfloat16")


def halving(parts: Sequence[Array]) -> Array:
    level = list(parts)
    while len(level) > 2:
        half = len(level) // 2
        level = [bf16(level[i] + level[i + half]) for i in range(half)]
    return level[0] + level[1]


def by_node(parts: Sequence[Array]) -> Array:
    half = len(parts) // 2
    return bf16(sum(parts[1:half], parts[0])) + bf16(sum(parts[half + 1 :], parts[half]))


def test_each_row_is_multiplied_by_the_matrix_of_its_own_expert() -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((2, 3, 2, 5)), random.standard_normal((4, 5, 6))
    index = random.integers(0, 4, (2, 3, 2))
    scope = Scope(UNEQUAL, np.zeros((2, 3), np.int32), np.zeros(2, np.int32), np.ones((2, 3, 3), bool), 0.0)
    made = product_by_expert(x, w, index, scope, AS_PUBLISHED)
    for place in np.ndindex(2, 3, 2):
        alone = contract(x[place][None], w[index[place]])
        assert np.allclose(made.value[place], alone.value[0], rtol=1e-14)
        # The squares are summed in float32 (`sum_of_squares`), and some BLAS sum a lone row otherwise.
        assert np.allclose(np.asarray(made.spread)[place], np.asarray(alone.spread)[0], rtol=1e-6)


@pytest.mark.parametrize(("count", "size"), [(2, 1), (4, 8), (3, 16)])
def test_parts_dealt_out_in_turn_have_every_so_manieth_block(count: int, size: int) -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((3, 40)), random.standard_normal((40, 5))
    made = contract_in_parts(x, w, f"{count} at once, dealt out in turn in blocks of {size}", "bfloat16", 0.0)
    parts = [[k for k in range(40) if k // size % count == part] for part in range(count)]
    assert np.array_equal(made.value, np.sum([bf16(x[:, own] @ w[own]) for own in parts if own], 0))


def test_a_result_that_is_handed_on_is_rounded_before_the_next_part_is_added() -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((3, 24)), random.standard_normal((24, 5))
    first, second, third = (x[:, i : i + 8] @ w[i : i + 8] for i in (0, 8, 16))
    on, back = (contract_in_parts(x, w, f"3 {order}", "bfloat16", 0.0) for order in ("handed on", "handed back"))
    assert np.array_equal(on.value, bf16(bf16(first) + second) + third)
    assert np.array_equal(back.value, bf16(bf16(third) + second) + first)


def test_sums_in_any_order_lie_between_those_of_all_orders_and_nowhere_else() -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((4, 24)), random.standard_normal((24, 50))
    found = contract_in_parts(x, w, "4 by atomics", "bfloat16", 0.0)
    parts = [round_to(x[:, i : i + 6] @ w[i : i + 6], "bfloat16") for i in range(0, 24, 6)]
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        total = parts[order[0]]
        for i in order[1:]:
            total = round_to(total + parts[i], "bfloat16")
        assert (np.abs(total - found.value) <= np.asarray(found.jump) + 1e-12).all()
    wrong = round_to(sum(parts[1:], parts[0]) * 1.02, "bfloat16")
    assert (np.abs(wrong - found.value) > np.asarray(found.jump)).any()


def test_partial_sums_worked_out_together_are_those_worked_out_one_by_one() -> None:
    random = np.random.default_rng(5)
    x, w = random.standard_normal((2, 3, 22)), random.standard_normal((22, 7))
    for shards in (evenly(22, 4), in_tiles(22, 4), in_tiles(22, 11)):
        together = partial_sums(x, w, shards, "bfloat16", 1e-6)
        assert len(together) == len(shards)
        for part, at in zip(together, shards, strict=True):
            alone = rounded(contract(x[..., at], w[at]), "bfloat16", 1e-6)
            assert np.array_equal(part.value, alone.value)
            assert np.allclose(part.jump, alone.jump)


@pytest.mark.parametrize(("order", "add"), [("by halving", halving), ("by node", by_node)])
def test_parts_are_added_with_ranks_half_as_many_away_or_node_by_node(order: str, add: object) -> None:
    random = np.random.default_rng(1)
    x, w = random.standard_normal((6, 64)), random.standard_normal((64, 40))
    parts = [bf16(x[:, i : i + 8] @ w[i : i + 8]) for i in range(0, 64, 8)]
    found = contract_in_parts(x, w, f"8 {order}", "bfloat16", 0.0)
    expected = add(parts)  # type: ignore[operator]
    assert np.allclose(found.value, expected, rtol=1e-12)
    assert not np.allclose(contract_in_parts(x, w, "8 in turn", "bfloat16", 0.0).value, expected, rtol=1e-12)


@pytest.mark.parametrize("choice", ["sums", "sums, and scaled"])
def test_sums_of_int8_products_are_rounded_before_their_scale_is_applied(choice: str) -> None:
    random = np.random.default_rng(2)
    x, int8 = bf16(random.standard_normal((5, 12))), random.integers(-127, 128, (12, 7)).astype(np.float64)
    scales = bf16(random.uniform(0.001, 0.01, (2, 7)))
    found = contract_unscaled(x, int8 * np.repeat(scales, 6, 0), scales, choice, "bfloat16", 1e-6)
    first, second = (bf16(x[:, at] @ int8[at]) * scale for at, scale in zip(in_tiles(12, 2), scales, strict=True))
    expected = first + second if choice == "sums" else bf16(first) + bf16(second)
    assert (np.abs(found.value - expected) <= np.asarray(found.jump) + 1e-12).all()
    whole = x @ (int8 * np.repeat(scales, 6, 0))
    assert (np.abs(found.value - whole) > np.asarray(found.jump) + 1e-6).any()


def test_a_sum_that_one_block_holds_is_not_split_and_has_no_inner_rounding() -> None:
    random = np.random.default_rng(3)
    x, w = random.standard_normal((5, 40)), random.standard_normal((40, 7))
    found = contract_in_parts(x, w, "2 at once, in blocks of 64", "bfloat16", 1e-6)
    assert np.array_equal(found.value, contract(x, w).value)
    assert not np.any(found.jump)


def test_a_ring_scatters_features_or_tokens_or_the_flattened_result() -> None:
    shape = (2, 3, 4)
    assert chunk_of(shape, "as ring", 2, in_tiles).tolist() == [[[0, 0, 1, 1]]]
    assert chunk_of(shape, "as ring by token", 2, in_tiles).ravel().tolist() == [0, 0, 0, 1, 1, 1]
    assert chunk_of(shape, "as flat ring", 3, in_tiles).ravel().tolist() == [0] * 8 + [1] * 8 + [2] * 8
    assert chunk_of((1, 1, 4), "as ring by token", 3, in_tiles).ravel().tolist() == [0]
