"""The yardstick: `jax_grouped` with the published algorithm for its experts, every token by every expert twice over.

The published code makes a copy of each token for each of its experts, multiplies all copies by all experts, and then
selects by a one-hot (SPEC §4.6). All else is the fast port's, so that what is measured is the grouping alone.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from grok_conformance.candidates.jax_grouped import load as load_grouped
from grok_conformance.candidates.jax_grouped import model
from grok_conformance.candidates.jax_grouped.layers import contract
from grok_conformance.candidates.jax_grouped.parameters import Matrix, Params
from grok_conformance.harness.contract import CandidateInfo, LanguageModelConfig, Weights

INFO = CandidateInfo(name="published_style", version=jax.__version__)


def dequantized(matrix: Matrix, fprop_dtype: Any) -> jax.Array:
    """Return a stored matrix [e, k, n] with its scales applied, in the wider of their dtypes (SPEC §3)."""
    if matrix.scales is None:
        return matrix.weight
    num_experts, num_rows, num_columns = matrix.weight.shape
    scales = matrix.scales.astype(jnp.promote_types(matrix.scales.dtype, fprop_dtype))  # [e, G, n]
    groups = matrix.weight.reshape(num_experts, scales.shape[1], -1, num_columns)  # [e, G, k/G, n]
    return (groups.astype(scales.dtype) * scales[:, :, None]).reshape(num_experts, num_rows, num_columns)


def every_token_by_every_expert(
    params: Params, x: jax.Array, index: jax.Array, names: Collection[str], mesh: Mesh | None
) -> dict[str, jax.Array]:
    """Return the values of the chosen experts [b, t, c, ..], computed for all experts and selected by a one-hot."""
    del mesh
    linear, linear_v, linear_1 = (
        dequantized(params[f"moe/{name}/w"], x.dtype) for name in ("linear", "linear_v", "linear_1")
    )
    one_hot = jax.nn.one_hot(index, len(linear))  # [b, t, c, e]
    copies = jnp.broadcast_to(x[:, :, None], (*index.shape, x.shape[-1]))  # [b, t, c, d]
    dtype = jnp.promote_types(linear.dtype, x.dtype) if params["moe/linear/w"].scales is not None else x.dtype

    def project(weight: jax.Array) -> jax.Array:
        every = contract("btcd,edf->btcef", copies.astype(dtype), weight.astype(dtype)).astype(dtype)
        return contract("btcef,btce->btcf", every.astype(jnp.float32), one_hot).astype(dtype)

    activation, up = project(linear), project(linear_v)
    hidden = jax.nn.gelu(activation.astype(jnp.float32), approximate=True) * up.astype(jnp.float32)
    narrow = linear_1 if params["moe/linear_1/w"].scales is not None else linear_1.astype(x.dtype)
    every = contract("btcf,efd->btced", hidden, narrow.astype(jnp.float32))
    output = contract("btced,btce->btcd", every, one_hot)
    values = {"expert_activation": activation, "expert_up": up, "expert_hidden": hidden}
    return {**{name: value for name, value in values.items() if name in names}, "expert_output": output}


def load(config: LanguageModelConfig, weights: Weights) -> model.Model:
    """Return the fast port with its experts replaced, in this process."""
    model.compute_experts = every_token_by_every_expert  # type: ignore[attr-defined] # imported there, not exported
    return load_grouped(config, weights)
