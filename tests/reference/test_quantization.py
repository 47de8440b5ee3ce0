"""Laws of the 8-bit weights (SPEC §3)."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reference import QuantizedWeight8bit, dequantize, quantize
from reference.quantization import split_groups

SHAPE = (2, 12, 5)  # [e, k, n]
GROUPS = st.sampled_from([1, 2, 3, 4, 12])
SCALES_DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])
MAGNITUDES = st.floats(2**-60, 2**60, width=32)
WEIGHTS = arrays.arrays(np.float32, SHAPE, elements=st.just(0.0) | MAGNITUDES | MAGNITUDES.map(lambda x: -x))


def unrounded(q: QuantizedWeight8bit) -> Any:
    """The product weight · scale in float64, where it is exact."""
    num_rows, num_groups = q.shape[-2], q.scales.shape[-2]
    return q.weight.astype(np.float64) * np.repeat(q.scales.astype(np.float64), num_rows // num_groups, axis=-2)


@given(WEIGHTS, GROUPS, SCALES_DTYPES)
def test_the_error_is_at_most_half_a_scale(w: Any, num_groups: int, dtype: Any) -> None:
    q = quantize(w, num_groups, dtype)
    scales = np.repeat(q.scales.astype(np.float64), SHAPE[1] // num_groups, axis=-2)
    kept = np.abs(w) <= 127.5 * scales
    assert (np.abs(unrounded(q) - w) <= scales / 2)[kept].all()
    assert (np.abs(q.weight[~kept]) == 127).all()


@given(
    arrays.arrays(np.int8, SHAPE, elements=st.integers(-127, 127)),
    GROUPS,
    st.sampled_from([-127, 127]),
    st.data(),
)
def test_quantising_what_was_quantised_changes_nothing(weight: Any, num_groups: int, top: int, data: Any) -> None:
    weight.reshape(2, num_groups, -1, 5)[:, :, 0] = top
    scales = data.draw(arrays.arrays(np.float32, (2, num_groups, 5), elements=MAGNITUDES))
    q = QuantizedWeight8bit(weight, scales)
    again = quantize(unrounded(q), num_groups, np.float32)
    assert np.array_equal(again.weight, weight)
    assert np.array_equal(again.scales, scales)


@given(WEIGHTS, GROUPS, SCALES_DTYPES)
def test_the_opposite_weight_has_the_opposite_integers_and_the_same_scales(w: Any, num_groups: int, dtype: Any) -> None:
    q, opposite = quantize(w, num_groups, dtype), quantize(-w, num_groups, dtype)
    assert np.array_equal(opposite.weight, -q.weight)
    assert np.array_equal(opposite.scales, q.scales)


@given(WEIGHTS, GROUPS, st.permutations(range(SHAPE[-1])))
def test_output_channels_do_not_know_of_each_other(w: Any, num_groups: int, order: list[int]) -> None:
    q, permuted = quantize(w, num_groups), quantize(w[..., order], num_groups)
    assert np.array_equal(permuted.weight, q.weight[..., order])
    assert np.array_equal(permuted.scales, q.scales[..., order])


@given(WEIGHTS, GROUPS, SCALES_DTYPES)
def test_groups_are_quantised_apart(w: Any, num_groups: int, dtype: Any) -> None:
    parts = [quantize(part, 1, dtype) for part in np.split(w, num_groups, axis=-2)]
    q = quantize(w, num_groups, dtype)
    assert np.array_equal(q.weight, np.concatenate([part.weight for part in parts], axis=-2))
    assert np.array_equal(q.scales, np.concatenate([part.scales for part in parts], axis=-2))


@given(WEIGHTS, GROUPS, SCALES_DTYPES)
def test_dequantising_rounds_the_product_to_the_dtype_of_the_scales(w: Any, num_groups: int, dtype: Any) -> None:
    q = quantize(w, num_groups, dtype)
    dequantized = np.asarray(dequantize(q))
    assert dequantized.dtype == dtype
    assert np.array_equal(dequantized, unrounded(q).astype(np.float32).astype(dtype))


def test_groups_are_contiguous_rows() -> None:
    q = QuantizedWeight8bit(np.ones((6, 1), np.int8), np.array([[1], [2]], np.float32))
    assert dequantize(q)[:, 0].tolist() == [1, 1, 1, 2, 2, 2]


def test_quotients_round_half_to_even() -> None:
    w = np.array([[127], [2.5], [3.5], [-2.5]])
    assert quantize(w, 1, np.float32).weight[:, 0].tolist() == [127, 2, 4, -2]


def test_a_group_of_zeros_has_scale_1() -> None:
    q = quantize(np.zeros(SHAPE), 3)
    assert (q.scales == 1).all()
    assert not q.weight.any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(value: float) -> None:
    w = np.zeros(SHAPE)
    w[1, 7, 3] = value
    with pytest.raises(ValueError, match=rf"weight\[1, 7, 3\] is {value}"):
        quantize(w)


def test_rows_that_do_not_divide_into_groups_are_refused() -> None:
    five_groups = QuantizedWeight8bit(np.ones(SHAPE, np.int8), np.ones((2, 5, 5), np.float32))
    for refused in (lambda: quantize(np.ones(SHAPE), 5), lambda: dequantize(five_groups)):
        with pytest.raises(ValueError, match="12 rows do not divide into 5 groups of scales"):
            refused()


@pytest.mark.parametrize("num_shards", [1, 2, 3, 4, 6, 12])
def test_finer_groups_for_the_shards_hold_the_same_weight(num_shards: int) -> None:
    q = quantize(np.random.default_rng(0).standard_normal(SHAPE), 4)
    finer = split_groups(q, num_shards)
    assert finer.scales.shape[-2] % num_shards == 0
    assert np.array_equal(dequantize(finer), dequantize(q))


def test_a_quantised_weight_is_a_node_with_two_children_and_the_shape_of_its_weight() -> None:
    q = quantize(np.ones(SHAPE), 4)
    doubled = jax.tree.map(lambda leaf: leaf * 2, q)
    assert isinstance(doubled, QuantizedWeight8bit)
    assert len(jax.tree.leaves(q)) == 2
    assert q.shape == SHAPE
    assert jnp.asarray(q.scales).dtype == jnp.bfloat16
