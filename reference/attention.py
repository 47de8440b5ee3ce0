"""Grouped-query attention with a capped softmax and a KV cache (SPEC §4.4, §5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.config import TransformerConfig
from grok_conformance.reference.layers import Linear, RMSNorm, RotaryEmbedding, contract
from grok_conformance.reference.memory import KVMemory, init_layer_memories
from grok_conformance.reference.partitioning import with_sharding_constraint
from grok_conformance.reference.rounding import round_to
from grok_conformance.reference.taps import tap

CAP = 30.0
MASKED = -1e30


class MHAOutput(NamedTuple):
    """The attention's result [b, t, d], and the updated cache if there was one."""

    embeddings: jax.Array
    memory: KVMemory | None


def make_attention_mask(
    query_input: jax.Array,
    key_input: jax.Array,
    pairwise_fn: Callable[[jax.Array, jax.Array], jax.Array] = jnp.multiply,
) -> jax.Array:
    """Return pairwise_fn of every query_input [b, t] and key_input [b, s], with an axis for the heads: [b, 1, t, s]."""
    return pairwise_fn(query_input[:, None, :, None], key_input[:, None, None, :])


class MultiHeadAttention(hk.Module):
    """Attention of query heads over the keys and values of this call, or of a cache (SPEC §4.4).

    Query head j uses KV head j // r. Published behaviours (SPEC §9): a query that sees no key averages uniformly,
    future keys included (kept); pads are masked in the call that brings them and attended once they are in the cache
    (kept); more than one token with a cache longer than the call works (mended).
    """

    def __init__(self, config: TransformerConfig, name: str | None = None) -> None:
        """Make the attention of one layer."""
        super().__init__(name=name)
        self.config = config

    def __call__(self, x: jax.Array, mask: jax.Array, memory: KVMemory | None) -> MHAOutput:
        """Return the attention of x [b, t, d]; `mask` [b, t] tells real tokens from pads."""
        c = self.config
        heads = P(c.data_axis, None, c.model_axis)
        if memory is not None and memory.k is None:  # an empty one
            (memory,) = init_layer_memories(x.shape[0], x.shape[1], c.num_kv_heads, c.key_size, 1, x.dtype)
        start = 0 if memory is None else memory.arrays()[2][:, None]
        positions = jnp.arange(x.shape[1])[None] + start  # [b or 1, t]

        query = tap("attention.query", self._heads(x, c.num_q_heads, "query"))  # [b, t, q, h]
        key = tap("attention.key", self._heads(x, c.num_kv_heads, "key"))  # [b, t, g, h]
        value = tap("attention.value", self._heads(x, c.num_kv_heads, "value"))  # [b, t, g, h]

        rotate = RotaryEmbedding(c.key_size)
        query = tap("attention.query_rotated", rotate(query, positions))
        key = tap("attention.key_rotated", rotate(key, positions))

        if memory is not None:
            memory = update_memory(memory, key, value)
            key, value, _ = memory.arrays()
        key, value = tap("kv.keys", key), tap("kv.values", value)  # [b, s, g, h]

        visible, present = visible_keys(mask, memory, positions)
        grouped = query.reshape(*query.shape[:2], c.num_kv_heads, -1, c.key_size)  # [b, t, g, r, h]
        logits = tap("attention.logits", self._logits(grouped, key.astype(x.dtype)))  # [b, g, r, t, s]
        weights = jax.nn.softmax(jnp.where(visible, logits, MASKED), where=present, axis=-1)
        weights = tap("attention.weights", round_to(weights, x.dtype))  # [b, g, r, t, s]

        attended = round_to(contract("bgrts,bsgh->btgrh", weights, value.astype(x.dtype)), x.dtype)
        attended = tap("attention.heads", with_sharding_constraint(attended.reshape(query.shape), heads))
        flat = attended.reshape(*x.shape[:2], -1)  # [b, t, q·h]
        output = Linear(x.shape[-1], P(c.model_axis, None), name="linear")(flat)
        return MHAOutput(tap("attention.output", output), memory)

    @hk.transparent
    def _heads(self, x: jax.Array, num_heads: int, name: str) -> jax.Array:
        c = self.config
        flat = Linear(num_heads * c.key_size, P(None, c.model_axis), name=name)(x)  # [b, t, heads·h]
        heads = flat.reshape(*x.shape[:2], num_heads, c.key_size)
        return with_sharding_constraint(heads, P(c.data_axis, None, c.model_axis))

    def _logits(self, query: jax.Array, key: jax.Array) -> jax.Array:
        # The source casts the bf16 einsum result to float32: the sums are rounded first (SPEC §4.4).
        sums = round_to(contract("btgrh,bsgh->bgrts", query, key), query.dtype).astype(jnp.float32)
        scaled = sums * jnp.float32(self.config.attn_output_multiplier)
        return round_to(CAP * jnp.tanh(scaled / CAP), jnp.float32)


def update_memory(memory: KVMemory, key: jax.Array, value: jax.Array) -> KVMemory:
    """Return the cache with key and value [b, t, g, h] written at each row's step, in the dtype of the cache.

    Published behaviour, kept (SPEC §9): the new step is the old one plus t, pads counted; after a padded prefill the
    caller overrides it with the true length. A row of an inactive slot, step 0, overwrites its slot 0.
    """
    write = jax.vmap(jax.lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))
    k, v, step = memory.arrays()
    return KVMemory(
        k=write(k, round_to(key, k.dtype), step, 0),
        v=write(v, round_to(value, v.dtype), step, 0),
        step=step + key.shape[1],
    )


def visible_keys(mask: jax.Array, memory: KVMemory | None, positions: jax.Array) -> tuple[jax.Array, jax.Array | None]:
    """Return which keys a query attends to, and which slots are present at all (None: all), each [b, 1, 1, t or 1, s].

    `mask` [b, t] tells this call's real tokens from pads, `positions` [b or 1, t] are its slots, and the memory is
    the updated one. A query whose keys are all invisible averages over the slots present: over all slots of the cache
    if the call brings one token, over those written so far if it brings more (SPEC §4.4).
    """
    num_tokens = mask.shape[1]
    if memory is None:
        causal = make_attention_mask(positions, positions, jnp.greater_equal)
        return (causal & mask[:, None, None, :])[:, None], None
    k, _, step = memory.arrays()
    slots = jnp.arange(k.shape[1])[None]  # [1, s]
    causal = make_attention_mask(positions, slots, jnp.greater_equal)[:, None]  # [b, 1, 1, t, s]
    if num_tokens == 1:
        return causal & mask[:, None, None, :, None], None
    real = jax.vmap(jax.lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))(
        jnp.ones((mask.shape[0], slots.shape[1]), bool), mask, positions[:, 0], 0
    )  # [b, s]: keys of earlier calls count as real
    present = slots < step[:, None]  # [b, s]
    return causal & real[:, None, None, None, :], present[:, None, None, None, :]


class MHABlock(hk.Module):
    """rms_norm_1(attention(rms_norm(x))), which the residual stream receives (SPEC §4.4, §4.5)."""

    def __init__(self, config: TransformerConfig) -> None:
        """Make the attention block of one layer."""
        super().__init__()
        self.config = config

    @hk.transparent
    def __call__(self, x: jax.Array, mask: jax.Array, memory: KVMemory | None) -> MHAOutput:
        """Return the update [b, t, d] of the residual stream x [b, t, d], and the updated cache."""
        normed = tap("attention.norm", RMSNorm(name="rms_norm")(x))
        output, memory = MultiHeadAttention(self.config, name="multi_head_attention")(normed, mask, memory)
        return MHAOutput(tap("attention.output_norm", RMSNorm(name="rms_norm_1")(output)), memory)
