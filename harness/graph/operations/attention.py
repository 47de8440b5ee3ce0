"""Attention: projections, rotary embedding, cache, capped logits, mask and softmax (SPEC §4.3, §4.4, §5)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import (
    contract,
    contract_sharded,
    contraction_spread,
    round_to,
    rounding_jump,
    softmax,
)
from grok_conformance.harness.graph.row import Alternative, Exact, Scope

LOGIT_CAP = 30.0
ROPE_BASE = 10000.0


def project_heads(x: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply x [b, t, d] by w [d, heads·h] and split the heads: [b, t, heads, h] (SPEC §4.4)."""
    del alternative
    product = contract(x, w)
    shape = (*x.shape[:-1], -1, scope.config.model.key_size)
    return Exact(product.value.reshape(shape), spread=np.reshape(product.spread, shape))


def rotate(x: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Rotate the two halves of every head of x [b, t, heads, h] by its position's phases (SPEC §4.4, RoPE)."""
    del alternative
    half = x.shape[-1] // 2
    frequencies = ROPE_BASE ** (-np.arange(half) / half)  # [h/2]
    positions = scope.steps[:, None] + np.arange(x.shape[1])  # [b, t]
    phase = (positions[:, :, None] * frequencies)[:, :, None, :]  # [b, t, 1, h/2]
    cos, sin = np.cos(phase), np.sin(phase)
    first, second = x[..., :half], x[..., half:]
    value = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
    along = np.concatenate([abs(first * cos) + abs(second * sin), abs(second * cos) + abs(first * sin)], -1)
    across = np.concatenate([abs(first * sin) + abs(second * cos), abs(second * sin) + abs(first * cos)], -1)
    # A float32 phase carries the roundings of the product and of the frequency, a power: where it is exp of a product
    # in [8, 16) = ln 10000 · 2j/h, the rounding of that product and of ln 10000 alone add 8 units each.
    phase_units = np.concatenate([16 * phase, 16 * phase], -1)
    return Exact(
        value,
        bound=3 * along + (1 + phase_units) * across,
        argument=np.broadcast_to(positions[:, :, None, None], x.shape),
    )


def update_cache(cache: Array, new: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Write new [b, t, g, h] into cache [b, s, g, h] at each row's step: a copy, so nothing may round (SPEC §5)."""
    del alternative
    value = cache.copy()
    for row, step in enumerate(scope.steps):
        value[row, step : step + new.shape[1]] = new[row]
    return Exact(value)


def attention_logits(query: Array, keys: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Return the capped logits of query [b, t, q, h] and keys [b, s, g, h]: float64 [b, g, r, t, s] (SPEC §4.4)."""
    config = scope.config.model
    b, t, q, h = query.shape
    grouped = query.reshape(b, t, config.num_kv_heads, q // config.num_kv_heads, h).transpose(0, 2, 3, 1, 4)
    by_group = keys.transpose(0, 2, 3, 1)[:, :, None]  # [b, g, 1, h, s]
    product = grouped @ by_group
    spread = contraction_spread(np.square(grouped) @ np.square(by_group), product, h)
    jump: Array | float = 0.0
    if scope.rounds and alternative.inner == "rounded":
        reach = rounding_jump(product, scope.margin * spread, scope.config.fprop_dtype)
        jump = config.attn_output_multiplier * np.abs(reach)  # the cap's slope is at most 1
        product, spread = round_to(product, scope.config.fprop_dtype), np.zeros_like(spread)
    value = np.tanh(product * config.attn_output_multiplier / LOGIT_CAP)
    spread *= config.attn_output_multiplier * (1 - np.square(value))  # the slope of the cap
    value *= LOGIT_CAP
    return Exact(value, bound=6 * np.abs(value), spread=spread, jump=jump, argument=value)


def attention_weights(logits: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Softmax of logits [b, g, r, t, s] over the visible keys (SPEC §4.4).

    A query that sees no key averages uniformly: over the first step + t slots, or for t = 1 over the whole cache.
    """
    del alternative
    visible = scope.visible  # [b, t, s]
    blind: Array = np.logical_not(visible.any(-1))  # [b, t]
    num_slots, t = visible.shape[-1], visible.shape[1]
    reach = np.full_like(scope.steps, num_slots) if t == 1 else scope.steps + t
    uniform = np.arange(num_slots) < reach[:, None, None]  # [b, 1, s]
    seen = np.where(blind[..., None], uniform, visible)[:, None, None]  # [b, 1, 1, t, s]
    return softmax(np.where(blind[:, None, None, :, None], 0.0, logits), np.broadcast_to(seen, logits.shape))


def attend(weights: Array, values: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Average values [b, s, g, h] by weights [b, g, r, t, s]: [b, t, q, h] (SPEC §4.4)."""
    del alternative
    b, g, r, t, _ = weights.shape
    shape = (b, t, g * r, scope.config.model.key_size)
    by_group = values.transpose(0, 2, 1, 3)[:, :, None]  # [b, g, 1, s, h]
    value, squares = (
        (x @ y).transpose(0, 3, 1, 2, 4).reshape(shape)
        for x, y in ((weights, by_group), (np.square(weights), np.square(by_group)))
    )
    return Exact(value, spread=contraction_spread(squares, value, values.shape[1]))


def project_output(heads: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply the flattened heads [b, t, q·h] by w [q·h, d] (SPEC §4.4)."""
    x = heads.reshape(*heads.shape[:2], -1)
    return contract_sharded(x, w, alternative.shards, scope.config.fprop_dtype, scope.margin)
