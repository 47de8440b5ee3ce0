"""Values are rounded where the specification says so, whatever the compiler fuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from grok_conformance.reference.rounding import pinned_rounding, round_to

GENERATOR = np.random.default_rng(0)
X, Y, Z = GENERATOR.standard_normal((3, 4096)).astype(np.float32)
PRODUCT = X * Y


def compiled(function: Callable[..., jax.Array], pinned: bool) -> np.ndarray[Any, Any]:  # noqa: FBT001 - the value
    with pinned_rounding(pinned):
        fresh = jax.jit(lambda *values: function(*values))  # noqa: PLW0108 - jit would reuse what it traced before
        return np.asarray(fresh(X, Y, Z))


def narrowed(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    return round_to(x * y, jnp.bfloat16).astype(jnp.float32) + z


def widened(x: jax.Array, y: jax.Array, z: jax.Array) -> jax.Array:
    return round_to(x * y, jnp.float32) + z


def test_a_value_narrower_than_its_consumer_is_rounded_to_nearest_even() -> None:
    expected = PRODUCT.astype(ml_dtypes.bfloat16).astype(np.float32) + Z
    assert np.array_equal(compiled(narrowed, pinned=True), expected)


def test_a_float32_product_is_rounded_before_the_sum_that_consumes_it() -> None:
    assert np.array_equal(compiled(widened, pinned=True), PRODUCT + Z)


@pytest.mark.parametrize("function", [narrowed, widened])
def test_unpinned_rounding_is_left_to_the_compiler(function: Callable[..., jax.Array]) -> None:
    jaxpr = str(jax.make_jaxpr(function)(X, Y, Z))
    with pinned_rounding(pinned=False):
        unpinned = str(jax.make_jaxpr(lambda *values: function(*values))(X, Y, Z))  # noqa: PLW0108 - traced again
    assert "reduce_precision" in jaxpr or "select_n" in jaxpr
    assert "reduce_precision" not in unpinned
    assert "select_n" not in unpinned


def test_rounding_keeps_infinities_zeros_and_nan() -> None:
    special = np.array([np.inf, -np.inf, 0.0, -0.0, np.nan], np.float32)
    for dtype in (jnp.float32, jnp.bfloat16):
        rounded = np.asarray(round_to(jnp.asarray(special), dtype)).astype(np.float32)
        assert np.array_equal(rounded, special, equal_nan=True)
        assert np.array_equal(np.signbit(rounded[:4]), np.signbit(special[:4]))


def test_rounding_to_a_wider_dtype_is_a_cast() -> None:
    x = jnp.asarray(X, jnp.bfloat16)
    assert np.array_equal(round_to(x, jnp.float32), np.asarray(x).astype(np.float32))
