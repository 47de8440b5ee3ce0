"""The router, which gives every token its probabilities of the experts, and the choice among them (SPEC §4.6)."""

from __future__ import annotations

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.layers import ZEROS, computable, contract
from grok_conformance.reference.partitioning import Axis, activation_spec, constrained, mesh_in_use
from grok_conformance.reference.taps import tap


class Router(hk.Module):
    """Routes tokens to experts by learned probabilities (SPEC §4.6).

    On a mesh (the one given, or else the one in context) w lies over `data_axis`, and the inputs as
    `activation_spec` says.
    """

    def __init__(
        self,
        num_selected_experts: int,
        data_axis: Axis = "data",
        model_axis: Axis = "model",
        shard_activations: bool = False,  # noqa: FBT001, FBT002 - published
        mesh: Mesh | None = None,
        name: str = "router",
    ) -> None:
        """Make the router of one layer, of which every token is given `num_selected_experts`."""
        super().__init__(name=name)
        self.num_selected_experts = num_selected_experts
        self.data_axis = data_axis
        self.activations = activation_spec(data_axis, model_axis, shard_activations=shard_activations)
        self.mesh = mesh

    def compute_routing_prob(
        self, inputs: jax.Array, padding_mask: jax.Array | None, num_experts: int
    ) -> tuple[jax.Array, jax.Array, int]:
        """Return probabilities and logits of the experts, float32 [b, t, e] each, for inputs [b, t, d]; and 0.

        `padding_mask` [b, t] is 1 for real tokens and 0 for pads, whose probabilities become 0. The last of the three
        stands where training would have an auxiliary loss.
        Published behaviour, kept (SPEC §9): the model gives no mask, pads are routed like other tokens.
        """
        return self._compute_routing_prob(inputs, padding_mask, num_experts)

    @hk.transparent
    def _compute_routing_prob(
        self, inputs: jax.Array, padding_mask: jax.Array | None, num_experts: int
    ) -> tuple[jax.Array, jax.Array, int]:
        inputs = constrained(inputs, self.activations, mesh_in_use(self.mesh))
        logits = self._router_weights(inputs.astype(jnp.float32), num_experts, P(self.data_axis))
        logits = tap("router.logits", logits)
        probabilities = jax.nn.softmax(logits, axis=-1)
        if padding_mask is not None:
            probabilities *= padding_mask[..., None]
        return tap("router.probabilities", probabilities), logits, 0

    @hk.transparent
    def _router_weights(self, x: jax.Array, num_experts: int, sharding: P | None = None) -> jax.Array:
        """Return x · w, float32 [b, t, e]; w [d, e] is placed where a sharding is given."""
        w = hk.get_parameter("w", (x.shape[-1], num_experts), jnp.float32, init=ZEROS)
        if sharding is not None:
            w = constrained(w, sharding, mesh_in_use(self.mesh))
        return contract("btd,de->bte", x, computable(w, x.dtype))


def choose_experts(probabilities: jax.Array, num_selected_experts: int) -> tuple[jax.Array, jax.Array]:
    """Return gates float32 and experts int32 [b, t, c], most probable first, ties to the lowest index (SPEC §4.6).

    Published behaviour, kept (SPEC §9): the gates are probabilities [b, t, e] over all experts, not renormalised.
    """
    gates, experts = jax.lax.top_k(probabilities, num_selected_experts)
    return tap("moe.expert_gate", gates), tap("moe.expert_index", experts)
