"""Products tile by tile: what a tile is, what is in it, and that their sums are those of the whole."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference.experts import ExpertWeights, product, run_expert
from grok_conformance.reference.layers import computable
from grok_conformance.reference.quantization import QuantizedWeight8bit, quantize
from grok_conformance.reference.streaming import experts
from grok_conformance.reference.streaming.blocks import MatrixInBlocks, room_bytes
from grok_conformance.reference.streaming.experts import (
    MAX_COLUMNS,
    MAX_ROWS,
    gate,
    in_three,
    multiply,
    multiply_rows,
    padded_rows,
    product_in_tiles,
    tile_shape,
    widen,
)

RANDOM = np.random.default_rng(0)
MATRIX_SHAPE = (48, 40)
MATRIX = RANDOM.standard_normal(MATRIX_SHAPE).astype(np.float32)


@given(rows=st.integers(1, 4096), columns=st.integers(1, 10_000), groups=st.integers(1, 16))
def test_tiles_divide_a_matrix_and_do_not_straddle_groups_of_scales(rows: int, columns: int, groups: int) -> None:
    k = rows * groups
    height, width = tile_shape((k, columns), groups)
    if (height, width) != (k, columns):
        assert rows % height == 0
        assert columns % width == 0
    assert height * width <= MAX_ROWS * MAX_COLUMNS


@pytest.mark.parametrize("shape", [(6144, 32768), (32768, 6144)])
def test_grok_1_is_computed_in_tiles_that_are_long_along_the_rows(shape: tuple[int, int]) -> None:
    assert tile_shape(shape, 8) in {(256, 4096), (256, 3072)}


@pytest.mark.parametrize(
    "weight", [MATRIX, quantize(MATRIX, 3), quantize(MATRIX, 3, np.float32)], ids=["plain", "int8", "float32 scales"]
)
@pytest.mark.parametrize("x_dtype", [jnp.bfloat16, jnp.float32])
def test_the_tiles_sum_up_to_the_product(weight: Any, x_dtype: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = jnp.asarray(RANDOM.standard_normal((5, 48)), x_dtype)
    dtype = weight.scales.dtype if isinstance(weight, QuantizedWeight8bit) else jnp.bfloat16
    x = x.astype(jnp.promote_types(x.dtype, dtype))
    monkeypatch.setattr(experts, "MAX_ROWS", 8)
    monkeypatch.setattr(experts, "MAX_COLUMNS", 20)
    exact = np.asarray(x, np.float64) @ np.asarray(computable(weight, dtype), np.float64)
    for found in (product_in_tiles(x, weight, dtype), product(x, weight, dtype)):
        assert found.dtype == jnp.float32
        np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("num_rows", [1, 7, 8, 9])
def test_rows_of_any_number_are_multiplied(num_rows: int) -> None:
    x = jnp.asarray(RANDOM.standard_normal((1, num_rows, 48)), jnp.bfloat16)
    weight = quantize(MATRIX, 3)
    exact = np.asarray(x, np.float64) @ np.asarray(computable(weight, jnp.bfloat16), np.float64)
    found = multiply_rows(x, weight)
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, exact, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("start", [0, 1, 201, 4095])
def test_a_matrix_in_blocks_of_a_file_is_that_matrix(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = quantize(MATRIX, 3), jnp.asarray(RANDOM.standard_normal((5, 48)), jnp.bfloat16)
    memory = np.full(room_bytes(weight.weight.nbytes), 99, np.int8)
    memory[start : start + weight.weight.size] = weight.weight.ravel()
    there = QuantizedWeight8bit(MatrixInBlocks(memory, np.int32(start), MATRIX_SHAPE), weight.scales)
    for max_rows in (MAX_ROWS, 8):  # whole, and in tiles
        monkeypatch.setattr(experts, "MAX_ROWS", max_rows)
        monkeypatch.setattr(experts, "MAX_COLUMNS", 2560 // max_rows)
        np.testing.assert_array_equal(
            jax.jit(product_in_tiles, static_argnums=2)(x, there, jnp.bfloat16),
            jax.jit(product_in_tiles, static_argnums=2)(x, weight, jnp.bfloat16),
        )


def test_a_matrix_of_one_tile_is_multiplied_as_it_is() -> None:
    x, weight = jnp.asarray(RANDOM.standard_normal((5, 48)), jnp.float32), quantize(MATRIX, 3)
    np.testing.assert_array_equal(product_in_tiles(x, weight, jnp.bfloat16), product(x, weight, jnp.bfloat16))


def test_three_bfloat16_are_a_float32() -> None:
    x = (RANDOM.standard_normal((4, 1000)) * np.exp2(RANDOM.integers(-60, 60, (4, 1000)))).astype(np.float32)
    parts = np.asarray(in_three(jnp.asarray(x)))
    assert parts.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(parts.astype(np.float64).sum(0), x)


def test_every_int8_is_widened_as_elsewhere() -> None:
    values = np.repeat(np.arange(-128, 128, dtype=np.int8)[:, None], 300, axis=1)
    scales = np.exp(RANDOM.uniform(-20, 20, (1, 300))).astype(ml_dtypes.bfloat16)
    scales[0, :4] = [0.0, np.inf, -np.inf, np.nan]
    tile = QuantizedWeight8bit(jnp.asarray(values), jnp.asarray(scales))
    found, expected = widen(tile, jnp.bfloat16), computable(tile, jnp.bfloat16)
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(np.asarray(found, np.float32), np.asarray(expected, np.float32))


@pytest.mark.parametrize("scales_dtype", [jnp.bfloat16, jnp.float32])
def test_products_and_gate_of_whole_matrices_are_one_expert(scales_dtype: Any) -> None:
    x = jnp.asarray(RANDOM.standard_normal((5, 40)), jnp.bfloat16)
    linear, linear_v, linear_1 = (
        jax.tree.map(jnp.asarray, quantize(matrix, 4, scales_dtype)) for matrix in (MATRIX.T, MATRIX.T + 1, MATRIX)
    )
    expected = jax.jit(run_expert)(x, ExpertWeights(linear, linear_v, linear_1))
    products = [[multiply(x, weight, fprop_dtype=x.dtype)] for weight in (linear, linear_v)]
    values = gate(*products, dtypes=(scales_dtype, scales_dtype))
    values["expert_output"] = multiply(values["expert_hidden"], linear_1, fprop_dtype=x.dtype)
    assert values.keys() == expected.keys()
    for name, value in expected.items():
        assert values[name].dtype == value.dtype
        np.testing.assert_array_equal(np.asarray(values[name]), np.asarray(value))


@given(st.integers(1, 10_000))
def test_rows_are_padded_by_a_quarter_or_seven_at_most(num_rows: int) -> None:
    assert 0 <= padded_rows(num_rows) - num_rows <= max(7, num_rows / 4)
    assert padded_rows(padded_rows(num_rows)) == padded_rows(num_rows)


@pytest.mark.parametrize("doubling", range(5, 12))
def test_few_sizes_are_compiled_for_each_doubling(doubling: int) -> None:
    assert len({padded_rows(n) for n in range(2**doubling + 1, 2 ** (doubling + 1) + 1)}) <= 4
