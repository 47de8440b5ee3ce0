from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance.reference.experts import ExpertWeights, as_bits, expert_dtype, gelu, product, run_expert
from grok_conformance.reference.quantization import QuantizedWeight8bit

RANDOM = np.random.default_rng(0)


def tanh_form(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("x", [-3.5, -1.0, 0.0, 0.25, 4.0])
def test_gelu_is_the_tanh_form(x: float) -> None:
    assert float(gelu(jnp.float32(x))) == pytest.approx(tanh_form(x), abs=1e-6)


def test_one_expert_gates_one_product_by_the_other_and_projects_back() -> None:
    x = RANDOM.standard_normal((5, 4)).astype(np.float32)
    linear, linear_v = (RANDOM.standard_normal((4, 6)).astype(np.float32) for _ in range(2))
    linear_1 = RANDOM.standard_normal((6, 4)).astype(np.float32)
    made = run_expert(jnp.asarray(x), ExpertWeights(linear=linear, linear_v=linear_v, linear_1=linear_1))
    hidden = np.vectorize(tanh_form)(x @ linear) * (x @ linear_v)
    np.testing.assert_allclose(made["expert_hidden"], hidden, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(made["expert_output"], hidden @ linear_1, rtol=1e-5, atol=1e-5)


def test_float32_values_are_multiplied_by_a_rounded_weight_in_float32() -> None:
    x, weight = jnp.full((1, 1), 1 + 2**-20, jnp.float32), np.full((1, 1), 1 + 2**-20, np.float32)
    assert float(product(x, weight, jnp.bfloat16)[0, 0]) == 1 + 2**-20


def test_the_scales_dtype_is_that_of_the_first_products() -> None:
    weight = np.zeros((4, 6), np.int8)
    narrow, wide = (QuantizedWeight8bit(weight, np.ones((1, 6), dtype)) for dtype in (jnp.bfloat16, np.float32))
    assert expert_dtype(narrow, jnp.bfloat16) == jnp.bfloat16
    assert expert_dtype(wide, jnp.bfloat16) == jnp.float32


def test_bits_are_those_of_the_values() -> None:
    x = jnp.array([0.0, -0.0, 1.5], jnp.float32)
    assert np.asarray(as_bits(x)).view(np.uint32).tolist() == np.asarray(x).view(np.uint32).tolist()
