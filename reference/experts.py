"""The chosen experts' values, each expert computing its own tokens only (SPEC §4.6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.layers import computable, contract
from grok_conformance.reference.partitioning import Axis, fitting, mesh_in_use, num_shards
from grok_conformance.reference.quantization import is_quantized, split_groups
from grok_conformance.reference.rounding import round_to
from grok_conformance.reference.taps import wanted

MAX_BLOCK = 64
"""Tokens that an expert takes at a time: enough to hide the dequantisation of its weights, few enough to fill up."""


def gelu(x: jax.Array) -> jax.Array:
    """Return the tanh approximation of gelu, computed in float32."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True)


class ExpertWeights(NamedTuple):
    """The stored weights of all experts: linear and linear_v [e, d, f], linear_1 [e, f, d] (SPEC §2)."""

    linear: Any
    linear_v: Any
    linear_1: Any


def run_experts(
    x: jax.Array, experts: jax.Array, weights: ExpertWeights, names: tuple[str, ...]
) -> dict[str, jax.Array]:
    """Return the named values [b, t, c, …] of the chosen experts; each expert computes its own tokens only.

    The published code multiplies every token by every expert. Here the pairs of token and expert are sorted by expert
    and cut into blocks of one expert each. A block that is not full also computes rows of the next expert: these
    are overwritten by the next expert's blocks, which come after it.
    """
    num_experts, (b, t, c) = weights.linear.shape[0], experts.shape
    block_size = min(MAX_BLOCK, b * t)  # no expert has more tokens than there are
    order = jnp.argsort(experts.reshape(-1))  # [b·t·c]
    num_rows = jnp.bincount(experts.reshape(-1), length=num_experts)  # [e]
    num_blocks = -(-num_rows // block_size)  # [e]
    rows_before, blocks_before = jnp.cumsum(num_rows) - num_rows, jnp.cumsum(num_blocks) - num_blocks  # [e]
    rows = jnp.pad(x.reshape(b * t, -1)[order // c], ((0, block_size), (0, 0)))  # [b·t·c + block_size, d]

    def run_block(block: jax.Array, values: dict[str, jax.Array]) -> dict[str, jax.Array]:
        expert = jnp.searchsorted(blocks_before, block, side="right") - 1
        start = rows_before[expert] + (block - blocks_before[expert]) * block_size
        chosen: ExpertWeights = jax.tree.map(lambda leaf: leaf[expert], weights)
        computed = run_expert(jax.lax.dynamic_slice_in_dim(rows, start, block_size), chosen)
        return {
            name: jax.lax.dynamic_update_slice_in_dim(value, as_bits(computed[name]), start, 0)
            for name, value in values.items()
        }

    one_expert = jax.eval_shape(run_expert, rows, jax.tree.map(lambda leaf: leaf[0], weights))
    empty = {name: as_bits(jnp.zeros(one_expert[name].shape, one_expert[name].dtype)) for name in names}
    values = jax.lax.fori_loop(0, jnp.sum(num_blocks), run_block, empty)
    return {
        name: value[jnp.argsort(order)].reshape(b, t, c, -1).view(one_expert[name].dtype)
        for name, value in values.items()
    }


def as_bits(x: jax.Array) -> jax.Array:
    """Return the bits of x as unsigned integers of its width.

    To write a few rows of a bfloat16 array, XLA on a CPU widens the whole of it; bits it leaves alone.
    """
    return x.view(f"uint{8 * x.dtype.itemsize}")


def product(x: jax.Array, weight: Any, dtype: Any) -> jax.Array:
    """Return x [n, k] · weight [k, m], float32 [n, m], for a stored weight taken to the compute dtype."""
    return contract("nk,km->nm", x, computable(weight, dtype).astype(x.dtype))


def run_expert(x: jax.Array, weights: ExpertWeights) -> dict[str, jax.Array]:
    """Return one expert's values for x [n, d], by tap name.

    `expert_activation` and `expert_up` [n, f] are in the dtype of `expert_dtype`; `expert_hidden` [n, f] and
    `expert_output` [n, d] in float32. Published behaviour, kept (SPEC §9): the scales' dtype sets the compute dtype.
    """

    def project(x: jax.Array, weight: Any) -> jax.Array:
        dtype = expert_dtype(weight, x.dtype)
        return round_to(product(x.astype(dtype), weight, dtype), dtype)

    activation, up = project(x, weights.linear), project(x, weights.linear_v)
    hidden = gate(activation, up)
    return {
        "expert_activation": activation,
        "expert_up": up,
        "expert_hidden": hidden,
        "expert_output": product(hidden, weights.linear_1, expert_dtype(weights.linear_1, x.dtype)),
    }


def gate(activation: jax.Array, up: jax.Array) -> jax.Array:
    """Return an expert's hidden values float32 [n, f] from its first two products [n, f]."""
    return gelu(activation) * up.astype(jnp.float32)


def expert_dtype(weight: Any, fprop_dtype: Any) -> Any:
    """Return the dtype in which an expert computes: that of the scales if it is wider than fprop_dtype (SPEC §4.6)."""
    return jnp.promote_types(weight.scales.dtype, fprop_dtype) if is_quantized(weight) else fprop_dtype


class Placement(NamedTuple):
    """The mesh to compute on (None: the one in context), and its axes that divide the tokens and the hidden width."""

    mesh: Mesh | None = None
    data_axis: Axis = "data"
    model_axis: Axis = "model"


def compute_experts(
    x: jax.Array,
    experts: jax.Array,
    weights: ExpertWeights,
    placement: Placement = Placement(),  # noqa: B008 - immutable
    run: Callable[..., dict[str, jax.Array]] = run_experts,
) -> dict[str, jax.Array]:
    """Return `expert_output` [b, t, c, d] for x [b, t, d] and its chosen experts [b, t, c], and the taps on the way.

    `run` is `run_experts`, or `slow_experts.run_experts_slowly`. On a mesh it computes one shard: each model shard
    holds a part of f, and the outputs are summed over the shards in float32. Tokens are divided over the data axis if
    it divides the batch (SPEC §7).
    """
    names = [name for name in ("expert_activation", "expert_up", "expert_hidden") if wanted(f"moe.{name}")]
    run_named = partial(run, names=(*names, "expert_output"))
    mesh, model = mesh_in_use(placement.mesh), placement.model_axis
    if mesh.empty:
        return run_named(x, experts, weights)
    if is_quantized(weights.linear_1):
        weights = weights._replace(linear_1=split_groups(weights.linear_1, num_shards(model, mesh)))

    def run_shard(x: jax.Array, experts: jax.Array, weights: ExpertWeights) -> dict[str, jax.Array]:
        values = run_named(x, experts, weights)
        return {**values, "expert_output": jax.lax.psum(values["expert_output"], model)}

    tokens = fitting(P(placement.data_axis), x.shape, mesh)
    columns, rows = P(None, None, model), P(None, model, None)
    hidden = P(*tokens, None, None, model)
    return jax.shard_map(
        run_shard,
        mesh=mesh,
        in_specs=(tokens, tokens, ExpertWeights(linear=columns, linear_v=columns, linear_1=rows)),
        out_specs={**dict.fromkeys(names, hidden), "expert_output": tokens},
        check_vma=False,  # the loop starts from zeros, which are the same on every shard, unlike what replaces them
    )(x, experts, weights)
