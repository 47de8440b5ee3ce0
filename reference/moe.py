"""The feed-forward block: experts chosen by a router, or a dense block (SPEC §4.6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.config import TransformerConfig
from grok_conformance.reference.experts import ExpertWeights, Placement, compute_experts, gelu
from grok_conformance.reference.layers import Linear
from grok_conformance.reference.partitioning import Axis, activation_spec, constrained, mesh_in_use
from grok_conformance.reference.rounding import round_to
from grok_conformance.reference.router import Router, choose_experts
from grok_conformance.reference.taps import tap


class MoELayer(hk.Module):
    """The gated sum of the chosen experts' outputs (SPEC §4.6).

    Published behaviours, mended (SPEC §9): any number of experts, plain float weights, and any data axis work.
    """

    def __init__(
        self,
        num_experts: int,
        layer_fn: Callable[[jax.Array], jax.Array],
        router: Router,
        mesh: Mesh | None = None,
        shard_activations: bool = False,  # noqa: FBT001, FBT002 - published
        data_axis: Axis = "data",
        model_axis: Axis = "model",
        name: str = "moe",
    ) -> None:
        """Make the experts of one layer, chosen by `router`, on the mesh given, or else the one in context.

        `layer_fn` makes one expert's parameters when it is called with tokens [b, t, d]: `linear`, `linear_v` and
        `linear_1`, as a DenseBlock has them.
        """
        super().__init__(name=name)
        self.num_experts = num_experts
        self.layer_fn = layer_fn
        self.router = router
        self.placement = Placement(mesh, data_axis, model_axis)
        self.activations = activation_spec(data_axis, model_axis, shard_activations=shard_activations)

    def __call__(self, inputs: jax.Array, padding_mask: jax.Array | None = None) -> jax.Array:
        """Return the output [b, t, d], in the dtype of the inputs [b, t, d]; nothing for pads, where a mask is given.

        Published behaviour, kept (SPEC §9): the model gives no mask.
        """
        return self._inference_call(inputs, padding_mask)

    @hk.transparent
    def _inference_call(self, inputs: jax.Array, padding_mask: jax.Array | None = None) -> jax.Array:
        inputs = constrained(inputs, self.activations, mesh_in_use(self.placement.mesh))
        probabilities, _, _ = self.router.compute_routing_prob(inputs, padding_mask, self.num_experts)
        gates, experts = choose_experts(probabilities, self.router.num_selected_experts)  # [b, t, c]
        values = compute_experts(inputs, experts, self._expert_weights(inputs), self.placement)
        for name, value in values.items():
            tap(f"moe.{name}", value)
        return combine_experts(gates, values["expert_output"], inputs.dtype)

    @hk.transparent
    def _expert_weights(self, inputs: jax.Array) -> ExpertWeights:
        """Return the stored weights of all experts, initialised by `layer_fn` with a key for each."""
        initialise = hk.transparent_lift(jax.vmap(hk.transform(self.layer_fn).init))
        keys = jax.random.split(jax.random.PRNGKey(0), self.num_experts)
        one_token = jnp.zeros((self.num_experts, 1, 1, inputs.shape[-1]), inputs.dtype)
        params: Any = initialise(keys, one_token)
        return ExpertWeights(*(params[name]["w"] for name in ExpertWeights._fields))


def combine_experts(gates: jax.Array, outputs: jax.Array, dtype: Any) -> jax.Array:
    """Return the sum [b, t, d] of the experts' outputs [b, t, c, d] times their gates [b, t, c], rounded to `dtype`."""
    gates = round_to(gates, dtype).astype(jnp.float32)
    return round_to(jnp.sum(gates[..., None] * outputs, axis=2), dtype)


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
