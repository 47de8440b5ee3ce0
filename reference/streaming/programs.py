"""What is compiled once and run for every layer: the parts of the model around the experts (SPEC §4)."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.layers import InOutEmbed, Linear, RMSNorm, scaled
from grok_conformance.reference.memory import KVMemory
from grok_conformance.reference.model import after_block, before_block, make_router
from grok_conformance.reference.moe import DenseBlock, combine_experts
from grok_conformance.reference.router import choose_experts
from grok_conformance.reference.streaming.experts import multiply_rows
from grok_conformance.reference.taps import collect_taps, tap

Taps = dict[str, jax.Array]


class Routed(NamedTuple):
    """A layer before its experts: the residual stream and their input [b, t, d], their gates and ids [b, t, c]."""

    residual: jax.Array
    normed: jax.Array
    memory: KVMemory | None
    gates: jax.Array
    experts: jax.Array


def _run(function: Any, params: Any, taps: tuple[str, ...]) -> tuple[Any, Taps]:
    """Run a function of haiku modules on parameters named from its root, and collect its taps."""
    with collect_taps(taps) as collected, hk.intercept_methods(_in_tiles):
        output = hk.transform(function).apply(params, None)
    return output, collected


def _in_tiles(method: Any, arguments: Any, named: Any, context: Any) -> Any:
    """Multiply as experts do where a layer multiplies by a stored matrix: int8 is not widened as a whole."""
    if isinstance(context.module, Linear) and context.method_name == "product" and jax.default_backend() == "cpu":
        return multiply_rows(*arguments)
    return method(*arguments, **named)


@functools.partial(jax.jit, static_argnames=("config", "taps"))
def embed(rows: jax.Array, *, config: LanguageModelConfig, taps: tuple[str, ...]) -> tuple[jax.Array, Taps]:
    """Return the embedding [b, t, d] of tokens whose rows [b, t, d] of the table are given (SPEC §4.2)."""
    b, t, d = rows.shape

    def run() -> jax.Array:
        table = InOutEmbed(b * t, d, name="in_out_embed")
        tokens = jnp.arange(b * t).reshape(b, t)
        return tap("embedding", table(tokens, config.fprop_dtype, config.embedding_multiplier_scale))

    return _run(run, {"in_out_embed": {"embeddings": rows.reshape(b * t, d)}}, taps)


@functools.partial(jax.jit, static_argnames=("config", "taps"))
def route(
    params: Any,
    x: jax.Array,
    mask: jax.Array,
    memory: KVMemory | None,
    *,
    config: LanguageModelConfig,
    taps: tuple[str, ...],
) -> tuple[Routed, Taps]:
    """Run a layer up to its experts; parameters and taps are named without the layer (SPEC §4.4-4.6)."""
    c = config.model

    def run() -> Routed:
        residual, normed, updated = before_block(c, x, mask, memory)
        probabilities, _, _ = make_router(c).compute_routing_prob(normed, None, c.num_experts)
        return Routed(residual, normed, updated, *choose_experts(probabilities, c.num_selected_experts))

    return _run(run, params, taps)


@functools.partial(jax.jit, static_argnames=("config", "taps"))
def finish(
    params: Any,
    residual: jax.Array,
    gates: jax.Array,
    outputs: jax.Array,
    *,
    config: LanguageModelConfig,
    taps: tuple[str, ...],
) -> tuple[jax.Array, Taps]:
    """Return the residual stream after a layer whose experts gave `outputs` float32 [b, t, c, d] (SPEC §4.6-4.7)."""
    return _run(
        lambda: after_block(config.model, residual, combine_experts(gates, outputs, residual.dtype)), params, taps
    )


@functools.partial(jax.jit, static_argnames=("config", "taps"))
def dense_layer(
    params: Any,
    x: jax.Array,
    mask: jax.Array,
    memory: KVMemory | None,
    *,
    config: LanguageModelConfig,
    taps: tuple[str, ...],
) -> tuple[tuple[jax.Array, KVMemory | None], Taps]:
    """Run a layer without experts (SPEC §4.6)."""
    c = config.model

    def run() -> tuple[jax.Array, KVMemory | None]:
        residual, normed, updated = before_block(c, x, mask, memory)
        return after_block(c, residual, DenseBlock(c)(normed)), updated

    return _run(run, params, taps)


@functools.partial(jax.jit, static_argnames=("taps",))
def final_norm(params: Any, x: jax.Array, *, taps: tuple[str, ...]) -> tuple[jax.Array, Taps]:
    """Return the norm of the last residual stream [b, t, d] (SPEC §4.8)."""
    return _run(lambda: tap("final_norm", RMSNorm(name="rms_norm")(x)), params, taps)


@functools.partial(jax.jit, static_argnames=("config",))
def logits(rows: jax.Array, x: jax.Array, *, config: LanguageModelConfig) -> jax.Array:
    """Return the logits [b, t, rows] of x [b, t, d] for some rows of the embedding table (SPEC §4.8)."""

    def run() -> jax.Array:
        table = InOutEmbed(rows.shape[0], rows.shape[1], name="in_out_embed")
        return scaled(table.decode(x), config.output_multiplier_scale)

    output: jax.Array = _run(run, {"in_out_embed": {"embeddings": rows}}, ())[0]
    return output
