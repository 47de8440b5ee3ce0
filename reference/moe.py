"""The feed-forward block: experts chosen by a router, or a dense block (SPEC §4.6)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.config import TransformerConfig
from grok_conformance.reference.layers import ZEROS, Linear, computable, contract
from grok_conformance.reference.partitioning import fitting, num_model_shards
from grok_conformance.reference.quantization import is_quantized, split_groups
from grok_conformance.reference.rounding import round_to
from grok_conformance.reference.taps import tap, wanted

Contraction = Callable[[str, jax.Array, jax.Array], jax.Array]
"""An einsum of two operands in float32, as `contract` is."""

MAX_BLOCK = 64
"""Tokens that an expert takes at a time: enough to hide the dequantisation of its weights, few enough to fill up."""


def gelu(x: jax.Array) -> jax.Array:
    """Return the tanh approximation of gelu, computed in float32."""
    return jax.nn.gelu(x.astype(jnp.float32), approximate=True)


class Router(hk.Module):
    """Chooses each token's experts (SPEC §4.6)."""

    def __init__(self, num_experts: int, num_selected_experts: int, name: str = "router") -> None:
        """Make the router of one layer."""
        super().__init__(name=name)
        self.num_experts = num_experts
        self.num_selected_experts = num_selected_experts

    def compute_routing_prob(self, x: jax.Array) -> jax.Array:
        """Return the probabilities of the experts, float32 [b, t, e], for x [b, t, d].

        Published behaviour, kept (SPEC §9): no padding mask is applied, pads are routed like other tokens.
        """
        w = hk.get_parameter("w", (x.shape[-1], self.num_experts), jnp.float32, init=ZEROS)
        logits = tap("router.logits", contract("btd,de->bte", x.astype(jnp.float32), computable(w, jnp.float32)))
        return tap("router.probabilities", jax.nn.softmax(logits, axis=-1))

    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Return gates float32 and experts int32 [b, t, c], most probable first, ties to the lowest index.

        Published behaviour, kept (SPEC §9): the gates are probabilities over all experts, not renormalised.
        """
        gates, experts = jax.lax.top_k(self.compute_routing_prob(x), self.num_selected_experts)
        return tap("moe.expert_gate", gates), tap("moe.expert_index", experts)


class ExpertWeights(NamedTuple):
    """The stored weights of all experts: linear and linear_v [e, d, f], linear_1 [e, f, d] (SPEC §2)."""

    linear: Any
    linear_v: Any
    linear_1: Any


class MoELayer(hk.Module):
    """The gated sum of the chosen experts' outputs (SPEC §4.6).

    Published behaviours, mended (SPEC §9): any number of experts, plain float weights, and any data axis work.
    """

    def __init__(self, config: TransformerConfig, router: Router, name: str = "moe") -> None:
        """Make the experts of one layer, chosen by `router`."""
        super().__init__(name=name)
        self.config = config
        self.router = router

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the output [b, t, d], in the dtype of x [b, t, d]."""
        c = self.config
        gates, experts = self.router(x)  # [b, t, c]
        weights = ExpertWeights(
            linear=self._weight("linear", c.emb_size, c.ffn_size),
            linear_v=self._weight("linear_v", c.emb_size, c.ffn_size),
            linear_1=self._weight("linear_1", c.ffn_size, c.emb_size),
        )
        values = compute_experts(x, experts, weights)
        for name, value in values.items():
            tap(f"moe.{name}", value)
        return combine_experts(gates, values["expert_output"], x.dtype)

    @hk.transparent
    def _weight(self, name: str, num_rows: int, num_columns: int) -> Any:
        with hk.name_scope(name):
            return hk.get_parameter("w", (self.config.num_experts, num_rows, num_columns), jnp.float32, init=ZEROS)


def combine_experts(gates: jax.Array, outputs: jax.Array, dtype: Any) -> jax.Array:
    """Return the sum [b, t, d] of the experts' outputs [b, t, c, d] times their gates [b, t, c], rounded to `dtype`."""
    gates = round_to(gates, dtype).astype(jnp.float32)
    return round_to(jnp.sum(gates[..., None] * outputs, axis=2), dtype)


def compute_experts(x: jax.Array, experts: jax.Array, weights: ExpertWeights) -> dict[str, jax.Array]:
    """Return `expert_output` [b, t, c, d] for x [b, t, d] and its chosen experts [b, t, c], and the taps on the way.

    On a mesh each model shard holds a part of f, and the outputs are summed over the shards in float32. Tokens are
    divided over the data axis if it divides the batch (SPEC §7).
    """
    names = [name for name in ("expert_activation", "expert_up", "expert_hidden") if wanted(f"moe.{name}")]
    run = partial(run_experts, names=(*names, "expert_output"))
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return run(x, experts, weights)
    if is_quantized(weights.linear_1):
        weights = weights._replace(linear_1=split_groups(weights.linear_1, num_model_shards()))

    def run_shard(x: jax.Array, experts: jax.Array, weights: ExpertWeights) -> dict[str, jax.Array]:
        values = run(x, experts, weights)
        return {**values, "expert_output": jax.lax.psum(values["expert_output"], "model")}

    tokens = fitting(P("data"), x.shape, mesh)
    columns, rows = P(None, None, "model"), P(None, "model", None)
    hidden = P(*tokens, None, None, "model")
    return jax.shard_map(
        run_shard,
        in_specs=(tokens, tokens, ExpertWeights(linear=columns, linear_v=columns, linear_1=rows)),
        out_specs={**dict.fromkeys(names, hidden), "expert_output": tokens},
        check_vma=False,  # the loop starts from zeros, which are the same on every shard, unlike what replaces them
    )(x, experts, weights)


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


def run_expert(x: jax.Array, weights: ExpertWeights, multiply: Contraction = contract) -> dict[str, jax.Array]:
    """Return one expert's values for x [n, d], by tap name; `multiply` gives the sums of its products.

    `expert_activation` and `expert_up` [n, f] are in the dtype of `expert_dtype`; `expert_hidden` [n, f] and
    `expert_output` [n, d] in float32. Published behaviour, kept (SPEC §9): the scales' dtype sets the compute dtype.
    """

    def project(x: jax.Array, weight: Any) -> jax.Array:
        dtype = expert_dtype(weight, x.dtype)
        return round_to(multiply("nd,df->nf", x.astype(dtype), computable(weight, dtype)), dtype)

    activation, up = project(x, weights.linear), project(x, weights.linear_v)
    hidden = gelu(activation) * up.astype(jnp.float32)
    linear_1 = computable(weights.linear_1, expert_dtype(weights.linear_1, x.dtype)).astype(jnp.float32)
    return {
        "expert_activation": activation,
        "expert_up": up,
        "expert_hidden": hidden,
        "expert_output": multiply("nf,fd->nd", hidden, linear_1),
    }


def expert_dtype(weight: Any, fprop_dtype: Any) -> Any:
    """Return the dtype in which an expert computes: that of the scales if it is wider than fprop_dtype (SPEC §4.6)."""
    return jnp.promote_types(weight.scales.dtype, fprop_dtype) if is_quantized(weight) else fprop_dtype


class DenseBlock(hk.Module):
    """linear_1(gelu(linear(x)) · linear_v(x)), all in the compute dtype (SPEC §4.6).

    Published behaviour, kept (SPEC §9): gelu's result is rounded to the compute dtype, unlike the experts'.
    """

    def __init__(self, config: TransformerConfig) -> None:
        """Make the dense block of one layer."""
        super().__init__()
        self.config = config

    @hk.transparent
    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the output [b, t, d] for x [b, t, d]."""
        c = self.config
        columns, rows = P(None, c.model_axis), P(c.model_axis, None)
        activation = tap("dense.activation", Linear(c.ffn_size, columns, name="linear")(x))
        up = tap("dense.up", Linear(c.ffn_size, columns, name="linear_v")(x))
        gate = round_to(gelu(activation), x.dtype)
        hidden = tap("dense.hidden", round_to(gate.astype(jnp.float32) * up.astype(jnp.float32), x.dtype))
        return Linear(c.emb_size, rows, name="linear_1")(hidden)
