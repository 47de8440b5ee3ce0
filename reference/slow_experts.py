"""The published algorithm for the experts: every token by every expert (SPEC §4.6).

It needs no kernel and hides nothing, and it is slow: what the grouped way (`experts.run_experts`) is validated against.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from grok_conformance.reference.experts import ExpertWeights, expert_dtype, gelu
from grok_conformance.reference.layers import computable, contract
from grok_conformance.reference.rounding import round_to


def run_experts_slowly(
    x: jax.Array, experts: jax.Array, weights: ExpertWeights, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Return the named values [b, t, c, …] of the chosen experts, as `run_experts` does.

    x [b, t, d] is copied once for each of the chosen experts [b, t, c]: m = b·t·c rows.
    """
    b, t, c = experts.shape
    copies = jnp.broadcast_to(x[:, :, None], (b, t, c, x.shape[-1])).reshape(b * t * c, -1)  # [m, d]
    index = experts.reshape(-1)  # [m]
    activation = moe_slow_matmul1(copies, weights.linear, index)  # [m, f]
    up = moe_slow_matmul1(copies, weights.linear_v, index)  # [m, f]
    hidden = gelu(activation) * up.astype(jnp.float32)  # [m, f]
    values = {
        "expert_activation": activation,
        "expert_up": up,
        "expert_hidden": hidden,
        "expert_output": moe_slow_matmul2(hidden, weights.linear_1, index, x.dtype),  # [m, d]
    }
    return {name: values[name].reshape(b, t, c, -1) for name in names}


def moe_slow_matmul1(inputs: jax.Array, weight: Any, index: jax.Array) -> jax.Array:
    """Return each row of inputs [m, k] times the weight [e, k, n] of its expert, index [m]: [m, n].

    Every row is multiplied by every expert, each product is rounded to `expert_dtype`, and a one-hot selects. int8
    weights are widened by their scales.
    Published behaviour, mended (SPEC §9): the one-hot has as many experts as there are, not 8.
    """
    dtype = expert_dtype(weight, inputs.dtype)
    every = contract("mk,ekn->emn", inputs.astype(dtype), computable(weight, dtype))
    return _select(round_to(every, dtype), index).astype(dtype)


def moe_slow_matmul2(inputs: jax.Array, weight: Any, index: jax.Array, fprop_dtype: Any = jnp.float32) -> jax.Array:
    """Return each row of inputs float32 [m, k] times the weight [e, k, n] of its expert, index [m]: float32 [m, n].

    As `moe_slow_matmul1`, but the sums stay in float32; only the widened weights are rounded, to the `expert_dtype` of
    `fprop_dtype`. Where the rows k are divided over model shards, this is one shard's part of the sum.
    """
    widened = computable(weight, expert_dtype(weight, fprop_dtype)).astype(jnp.float32)  # [e, k, n]
    return _select(contract("mk,ekn->emn", inputs, widened), index)


def _select(every: jax.Array, index: jax.Array) -> jax.Array:
    """Return row m of expert index[m], float32 [m, n], from the products with all experts [e, m, n]."""
    one_hot = jax.nn.one_hot(index, every.shape[0], axis=0)  # [e, m]
    return contract("em,emn->mn", one_hot, every.astype(jnp.float32))
