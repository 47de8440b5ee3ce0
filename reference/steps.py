"""The slots of a batch, and the compiled steps that fill, advance and empty them (SPEC §5, §6)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.inference import forward, init_memory
from grok_conformance.reference.memory import KVMemory, Memory
from grok_conformance.reference.parameters import Params
from grok_conformance.reference.partitioning import with_sharding_constraint
from grok_conformance.reference.sampling import TOP_K, SampleOutput, SampleSettings, sample_token


class Slots(NamedTuple):
    """The state of a batch of slots: their caches, keys [b, 2], settings, and what they drew last (SPEC §5, §6)."""

    memory: Memory
    rngs: jax.Array
    settings: SampleSettings
    last_output: SampleOutput


def insert_slice(memory: Memory, prefilled: Memory, length: Any, i: Any) -> Memory:
    """Return the caches with row `i` replaced by the only row of `prefilled`, at step `length` (SPEC §5).

    The prefilled cache may be shorter: zeros follow it. Its slots from `length` on hold the keys and values of pads,
    which decoding overwrites before it reads them.
    """

    def insert(layer: KVMemory, row: KVMemory) -> KVMemory:
        missing = layer.arrays()[0].shape[1] - row.arrays()[0].shape[1]
        k, v = (jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0))) for x in row.arrays()[:2])  # [1, s, g, h]
        inserted: KVMemory = insert_row(layer, KVMemory(k, v, jnp.full(1, length, jnp.int32)), i)
        return inserted

    return Memory([insert(*layers) for layers in zip(memory.layers, prefilled.layers, strict=True)])


def insert_row(rows: Any, row: Any, i: Any) -> Any:
    """Return arrays [b, …] with row `i` replaced by the only row of others [1, …]."""
    return jax.tree.map(lambda x, new: jax.lax.dynamic_update_slice_in_dim(x, new, i, axis=0), rows, row)


def placed(slots: Slots, config: LanguageModelConfig) -> Slots:
    """Return the slots where every step leaves them: caches by rows and KV heads (SPEC §9), the rest whole."""
    heads = P(config.model.data_axis, None, config.model.model_axis)
    memory = jax.tree.map(lambda x: with_sharding_constraint(x, heads), slots.memory)
    rest = jax.tree.map(lambda x: with_sharding_constraint(x, P()), slots[1:])
    return Slots(memory, *rest)


@functools.partial(jax.jit, static_argnames=("config", "num_slots"))
def empty_slots(*, config: LanguageModelConfig, num_slots: int) -> Slots:
    """Return inactive slots with empty caches of `sequence_len`."""
    dtype = config.fprop_dtype
    settings = SampleSettings(
        temperature=jnp.ones(num_slots),
        nucleus_p=jnp.ones(num_slots),
        mask=jnp.ones((num_slots, config.vocab_size), bool),
        active=jnp.zeros(num_slots, bool),
    )
    last_output = SampleOutput(
        token_id=jnp.zeros((num_slots, 1), jnp.int32),
        prob=jnp.zeros((num_slots, 1), dtype),
        top_k_token_ids=jnp.zeros((num_slots, TOP_K), jnp.int32),
        top_k_probs=jnp.zeros((num_slots, TOP_K), dtype),
    )
    memory = init_memory(config, num_slots, config.sequence_len)
    return placed(Slots(memory, jnp.zeros((num_slots, 2), jnp.uint32), settings, last_output), config)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
def prefill(
    params: Params,
    slots: Slots,
    prompt: jax.Array,
    length: jax.Array,
    rng: jax.Array,
    settings: SampleSettings,
    i: jax.Array,
    *,
    config: LanguageModelConfig,
) -> Slots:
    """Run a prompt [t] of that length, and give slot `i` its cache and its first token."""
    memory = init_memory(config, 1, prompt.shape[0])
    output, _ = forward(params, prompt[None], memory, length, config=config)
    rng, sub = jax.random.split(rng)
    sampled = sample_token(sub[None], output, settings)
    row = (rng[None], settings, sampled)
    return placed(
        Slots(insert_slice(slots.memory, output.model_state, length, i), *insert_row(slots[1:], row, i)), config
    )


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
def decode(params: Params, slots: Slots, *, config: LanguageModelConfig) -> Slots:
    """Run the last token of every slot, at position 0 where it is inactive, and draw the next."""
    active = slots.settings.active
    memory = Memory([layer._replace(step=jnp.where(active, layer.arrays()[2], 0)) for layer in slots.memory.layers])
    output, _ = forward(params, slots.last_output.token_id, memory, None, config=config)
    rngs, subs = jnp.moveaxis(jax.vmap(jax.random.split)(slots.rngs), 1, 0)  # [b, 2] each
    sampled = sample_token(subs, output, slots.settings)
    return placed(Slots(output.model_state, rngs, slots.settings, sampled), config)


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
def release(slots: Slots, i: jax.Array, *, config: LanguageModelConfig) -> Slots:
    """Return the slots with slot `i` inactive."""
    settings = slots.settings._replace(active=slots.settings.active.at[i].set(False))
    return placed(slots._replace(settings=settings), config)
