"""The fast JAX port at JAX's default precision, which is TF32 on a GPU. Without one the operands are rounded to it."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from grok_conformance.candidates import jax_grouped
from grok_conformance.candidates.jax_grouped import layers, model
from grok_conformance.harness.contract import LanguageModelConfig, Weights

INFO = replace(jax_grouped.INFO, name="tf32_jax")


def tf32(x: jax.Array) -> jax.Array:
    """Round a float32 array to ten bits of mantissa, as a GPU's conversion does; leave all else alone."""
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=10) if x.dtype == jnp.float32 else x


def contract(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    if jax.default_backend() == "cpu":
        x, y = tf32(x), tf32(y)
    return jnp.einsum(equation, x, y, precision=jax.lax.Precision.DEFAULT, preferred_element_type=jnp.float32)


def load(config: LanguageModelConfig, weights: Weights) -> model.Model:
    for module in (layers, model):
        setattr(module, "contract", contract)  # noqa: B010
    return jax_grouped.load(config, weights)
