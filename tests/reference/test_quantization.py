"""The 8-bit weights (SPEC §3); their laws are in `tests/properties`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance.reference import QuantizedWeight8bit, dequantize, quantize

SHAPE = (2, 12, 5)  # [e, k, n]


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


def test_a_quantised_weight_is_a_node_with_two_children_and_the_shape_of_its_weight() -> None:
    q = quantize(np.ones(SHAPE), 4)
    doubled = jax.tree.map(lambda leaf: leaf * 2, q)
    assert isinstance(doubled, QuantizedWeight8bit)
    assert len(jax.tree.leaves(q)) == 2
    assert q.shape == SHAPE
    assert jnp.asarray(q.scales).dtype == jnp.bfloat16
