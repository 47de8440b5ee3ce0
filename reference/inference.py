"""Running the model: the checks before any compute, and the jitted programs (SPEC §4, §5, §9)."""

from __future__ import annotations

import functools
from collections.abc import Collection
from contextlib import nullcontext
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.memory import Memory, init_layer_memories
from grok_conformance.reference.model import LanguageModel, LanguageModelOutput, Transformer
from grok_conformance.reference.parameters import Params, quantize_params
from grok_conformance.reference.partitioning import check_mesh, parameter_shardings
from grok_conformance.reference.rounding import pinned_rounding
from grok_conformance.reference.taps import collect_taps, select_taps

Output = LanguageModelOutput | jax.Array


def init(config: LanguageModelConfig, *, quantize: int | None = None) -> Params:
    """Return the parameters as haiku makes them: plain float32 weights, all of them 0, norms too (SPEC §9).

    With `quantize` the weights are then stored as 8-bit ones, as `quantize_params` does in so many groups (SPEC §3).
    """
    tokens = jnp.zeros((1, 1), jnp.int32)
    params: Params = _transformed(config).init(None, tokens, None, length=None, last_hid_only=False)
    return params if quantize is None else quantize_params(config, params, quantize)


def init_memory(config: LanguageModelConfig, batch_size: int, sequence_len: int, dtype: Any = None) -> Memory:
    """Return empty caches of `sequence_len` slots for every layer (SPEC §5).

    Published behaviour, mended (SPEC §9): the dtype defaults to fprop_dtype, so that float32 works.
    """
    m = config.model
    dtype = config.fprop_dtype if dtype is None else dtype
    return Memory(init_layer_memories(batch_size, sequence_len, m.num_kv_heads, m.key_size, m.num_layers, dtype))


def apply(
    config: LanguageModelConfig,
    params: Params,
    tokens: Any,
    *,
    memory: Memory | None = None,
    length: Any = None,
    last_hid_only: bool = False,
    mesh: Mesh | None = None,
    pin_rounding: bool = True,
) -> Output:
    """Run the model on tokens int32 [b, t] (SPEC §4), compiled once per configuration, shapes and keywords.

    With a memory the tokens continue each row at its step, and the output holds the updated memory. After a padded
    prefill the caller overrides `step` with the true lengths (SPEC §5). `length`, one or one per row, keeps the logits
    of the position before it: [b, 1, v]. `last_hid_only` returns the final norm at the last real token instead, [b, d].
    Parameters and memory may be host or device arrays; on a mesh the parameters are placed by the partition rules.
    `pin_rounding=False` lets the compiler drop casts to narrower dtypes (SPEC §9).

    Raises ValueError before any compute for a token outside the vocabulary, a memory with too little room, and a mesh
    that does not fit the sizes.
    """
    output, _ = apply_with_taps(
        config,
        params,
        tokens,
        taps=(),
        memory=memory,
        length=length,
        last_hid_only=last_hid_only,
        mesh=mesh,
        pin_rounding=pin_rounding,
    )
    return output


def apply_with_taps(  # noqa: PLR0913 - the keywords of `apply`, and the taps
    config: LanguageModelConfig,
    params: Params,
    tokens: Any,
    *,
    taps: Collection[str] | None = None,
    memory: Memory | None = None,
    length: Any = None,
    last_hid_only: bool = False,
    mesh: Mesh | None = None,
    pin_rounding: bool = True,
) -> tuple[Output, dict[str, jax.Array]]:
    """Run the model as `apply` does, and return its output and the taps that match the glob patterns (None: all).

    Tapping changes nothing: on the CPU the output is bit for bit that of `apply`. The names, axes and dtypes of the
    taps are those of golden/schema/taps.json, in its order.
    Raises ValueError also for a pattern that matches no tap.
    """
    names = select_taps(config, taps)
    check_tokens(config, np.asarray(tokens))
    if memory is not None:
        check_room(memory, tokens)
    if mesh is not None:
        check_mesh(config.model, mesh)
        params = jax.device_put(params, parameter_shardings(params, mesh))
    with nullcontext() if mesh is None else jax.set_mesh(mesh):
        output, collected = forward(
            params,
            jnp.asarray(tokens, jnp.int32),
            memory,
            None if length is None else jnp.asarray(length, jnp.int32),
            config=config,
            last_hid_only=last_hid_only,
            taps=names,
            pin_rounding=pin_rounding,
        )
    return output, {name: collected[name] for name in names if name in collected}


@functools.partial(jax.jit, static_argnames=("config", "last_hid_only", "taps", "pin_rounding"))
def forward(
    params: Params,
    tokens: jax.Array,
    memory: Memory | None,
    length: jax.Array | None,
    *,
    config: LanguageModelConfig,
    last_hid_only: bool = False,
    taps: tuple[str, ...] = (),
    pin_rounding: bool = True,
) -> tuple[Output, dict[str, jax.Array]]:
    """Run the model on the mesh in context (`jax.set_mesh`), unchecked: what `apply` and its kin compile."""
    with pinned_rounding(pin_rounding), collect_taps(taps) as collected:
        output = _transformed(config).apply(params, None, tokens, memory, length=length, last_hid_only=last_hid_only)
    return output, collected


def check_tokens(config: LanguageModelConfig, tokens: np.ndarray) -> None:
    """Raise ValueError naming the first token id [b, t] that is not in the vocabulary, and its position.

    Published behaviour, mended (SPEC §9): larger ids were clamped to the last row, negative ones wrapped.
    """
    outside = np.argwhere((tokens < 0) | (tokens >= config.vocab_size))
    if len(outside):
        row, position = outside[0]
        raise ValueError(
            f"token id {tokens[row, position]} at row {row}, position {position} is outside the vocabulary:"
            f" ids are 0..{config.vocab_size - 1}"
        )


def check_room(memory: Memory, tokens: Any) -> None:
    """Raise ValueError naming the first row whose cache has no room for the tokens [b, t].

    Published behaviour, mended (SPEC §9): a full cache silently overwrote its last slot.
    """
    if memory.layers[0].k is None:  # made when it is needed, as long as the call
        return
    k, _, step = memory.layers[0].arrays()
    num_slots, num_tokens, steps = k.shape[1], tokens.shape[1], np.asarray(step)
    full = np.flatnonzero(steps + num_tokens > num_slots)
    if len(full):
        raise ValueError(
            f"row {full[0]}: {num_tokens} tokens at step {steps[full[0]]} do not fit into a cache of {num_slots} slots:"
            " make a longer one with init_memory"
        )


@functools.cache
def _transformed(config: LanguageModelConfig) -> hk.Transformed:
    def run(
        tokens: jax.Array, memory: Memory | None, *, length: jax.Array | None, last_hid_only: bool
    ) -> LanguageModelOutput | jax.Array:
        model = LanguageModel(config, Transformer(config.model))
        return model(tokens, memory, length=length, last_hid_only=last_hid_only)

    return hk.transform(run)
