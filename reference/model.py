"""The language model (SPEC §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.attention import MHABlock
from grok_conformance.reference.config import LanguageModelConfig, TransformerConfig
from grok_conformance.reference.layers import InOutEmbed, RMSNorm, add, scaled
from grok_conformance.reference.memory import KVMemory, Memory
from grok_conformance.reference.moe import DenseBlock, MoELayer
from grok_conformance.reference.partitioning import activation_spec, with_sharding_constraint
from grok_conformance.reference.router import Router
from grok_conformance.reference.taps import layer_taps, tap


class DecoderOutput(NamedTuple):
    """One layer's residual stream [b, t, d], and its updated cache if there was one."""

    embeddings: jax.Array
    memory: KVMemory | None


class TransformerOutput(NamedTuple):
    """The last residual stream [b, t, d], and the updated caches if there were any."""

    embeddings: jax.Array
    memory: Memory | None


class LanguageModelOutput(NamedTuple):
    """Logits [b, t, v] in fprop_dtype, and the updated caches if there were any."""

    logits: jax.Array
    model_state: Memory | None


class DecoderLayer(hk.Module):
    """Attention and feed-forward block, each added to the residual stream after a norm of its own (SPEC §4.4-4.7)."""

    def __init__(self, config: TransformerConfig, name: str | None = None) -> None:
        """Make a layer."""
        super().__init__(name=name)
        self.config = config

    def __call__(self, x: jax.Array, mask: jax.Array, memory: KVMemory | None) -> DecoderOutput:
        """Return the residual stream after the layer for x [b, t, d]; `mask` [b, t] tells real tokens from pads."""
        c = self.config
        residual, normed, memory = before_block(c, x, mask, memory)
        block = DenseBlock(c) if c.dense else make_moe(c)
        return DecoderOutput(after_block(c, residual, block(normed)), memory)


def make_moe(config: TransformerConfig) -> MoELayer:
    """Return the experts of a layer and their router, in the caller's scope (SPEC §4.6)."""
    c = config

    def one_expert(x: jax.Array) -> jax.Array:
        return DenseBlock(c)(x)

    return MoELayer(
        c.num_experts,
        one_expert,
        make_router(c),
        shard_activations=c.shard_activations,
        data_axis=c.data_axis,
        model_axis=c.model_axis,
    )


def make_router(config: TransformerConfig) -> Router:
    """Return the router of a layer, in the caller's scope (SPEC §4.6)."""
    return Router(config.num_selected_experts, config.data_axis, config.model_axis, config.shard_activations)


class BlockInput(NamedTuple):
    """The residual stream after attention and what the feed-forward block reads, both [b, t, d], and the cache."""

    residual: jax.Array
    normed: jax.Array
    memory: KVMemory | None


def before_block(config: TransformerConfig, x: jax.Array, mask: jax.Array, memory: KVMemory | None) -> BlockInput:
    """Return what a layer computes before its feed-forward block, its modules in the caller's scope (SPEC §4.4)."""
    attention, memory = MHABlock(config)(x, mask, memory)
    residual = tap("attention.residual", with_sharding_constraint(add(x, attention), residual_spec(config)))
    return BlockInput(residual, tap("moe.norm", RMSNorm(name="rms_norm_2")(residual)), memory)


def after_block(config: TransformerConfig, residual: jax.Array, output: jax.Array) -> jax.Array:
    """Return the residual stream after a layer whose feed-forward block gave `output`, all [b, t, d] (SPEC §4.7)."""
    x = add(residual, tap("moe.output_norm", RMSNorm(name="rms_norm_3")(tap("moe.output", output))))
    return tap("output", with_sharding_constraint(x, residual_spec(config)))


def residual_spec(config: TransformerConfig) -> P:
    """Return where the residual stream [b, t, d] lies on a mesh (SPEC §7)."""
    return activation_spec(config.data_axis, config.model_axis, shard_activations=config.shard_activations)


class Transformer(hk.Module):
    """The decoder layers (SPEC §4.3-4.7)."""

    def __init__(self, config: TransformerConfig, name: str = "transformer") -> None:
        """Make the decoder."""
        super().__init__(name=name)
        self.config = config

    def __call__(self, x: jax.Array, mask: jax.Array, memory: Memory | None) -> TransformerOutput:
        """Return the last residual stream for the embeddings x [b, t, d]; `mask` [b, t] tells real tokens from pads."""
        num_layers = self.config.num_layers
        caches: Sequence[KVMemory | None] = [None] * num_layers if memory is None else memory.layers
        updated: list[Any] = []
        for i in range(num_layers):
            with layer_taps(i):
                x, cache = DecoderLayer(self.config, name=f"decoder_layer_{i}")(x, mask, caches[i])
            updated.append(cache)
        return TransformerOutput(x, None if memory is None else Memory(layers=updated))


class LanguageModel(hk.Module):
    """Embedding, decoder, and logits from the embedding table (SPEC §4)."""

    def __init__(self, config: LanguageModelConfig, model: Transformer, name: str = "language_model") -> None:
        """Make the language model around a decoder, whose parameters lie beside its own."""
        super().__init__(name=name)
        self.config = config
        self.model = model

    def __call__(
        self, tokens: jax.Array, memory: Memory | None, *, length: jax.Array | None, last_hid_only: bool
    ) -> LanguageModelOutput | jax.Array:
        """Run the model on tokens [b, t], as `reference.apply` says."""
        c = self.config
        mask = tokens > c.pad_token  # [b, t]
        embed = InOutEmbed(c.vocab_size, c.model.emb_size, name="in_out_embed")
        x = tap("embedding", embed(tokens, c.fprop_dtype, c.embedding_multiplier_scale))
        x = with_sharding_constraint(x, residual_spec(c.model))
        x, memory = self.model(x, mask, memory)
        x = tap("final_norm", RMSNorm(name="rms_norm")(x))
        if last_hid_only:
            return take_position(x, jnp.sum(mask, axis=1))[:, 0]
        if length is not None:
            x = take_position(x, length)
        logits = scaled(embed.decode(x), c.output_multiplier_scale)  # [b, t, v]
        return LanguageModelOutput(tap("logits", logits), memory)


def take_position(x: jax.Array, length: jax.Array) -> jax.Array:
    """Return the last of the first `length` (one, or one per row) positions of x [b, t, d], as [b, 1, d].

    Published behaviours, kept (SPEC §9): length 0 selects the first position, a length beyond t the last. With
    `last_hid_only` the length is the number of real tokens, wherever the pads are.
    """
    last = jnp.clip(length - 1, 0, x.shape[1] - 1)
    return jnp.take_along_axis(x, jnp.broadcast_to(last, x.shape[0])[:, None, None], axis=1)
