"""Attention: projections, rotary embedding, cache, capped logits, mask and softmax (SPEC §4.3, §4.4, §5)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import LOGIT_CAP, ROPE_BASE
from grok_conformance.harness.graph.arithmetic import (
    TANH_APPROXIMATE_ERROR,
    approximation,
    contraction_spread,
    product,
    round_to,
    rounded,
    softmax,
    truncated,
)
from grok_conformance.harness.graph.rounding import ACCUMULATOR, Point, RoundingPlan, rounding_point
from grok_conformance.harness.graph.row import Exact, Scope

QUERY_KEY = rounding_point("query · key", "rounded", "q·k not rounded before it is scaled")
SCALE = Point(
    "scale",
    {
        "product": "",
        "query": "q scaled before the product, in the compute dtype",
        "query, product rounded": "q scaled before the product, in the compute dtype, and the product rounded",
    },
)
CAP = Point(
    "cap",
    {
        "exact": "",
        "sigmoid": "tanh of the cap as 2·sigmoid(2x) − 1",
        "approximate": "tanh of the cap approximated to 2⁻¹¹ (tanh.approx)",
    },
    narrow=False,
    approximation=True,
)
SIGMOID_UNITS = 4 * LOGIT_CAP
"""What 2·sigmoid(2x) − 1 for tanh adds to the error of a capped logit, absolutely, in units of u(float32)."""

MAXIMUM = Point(
    "maximum",
    {"row": "", "cap": "exp(l − 30): the cap in place of the row's maximum"},
    narrow=False,
    approximation=True,
)


def project_heads(x: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [b, t, d] by w [d, heads·h] and split the heads: [b, t, heads, h] (SPEC §4.4)."""
    made = product(x, w, scope, plan)
    shape = (*x.shape[:-1], -1, scope.config.model.key_size)
    bound, spread, jump = (np.reshape(e, shape) if np.ndim(e) else e for e in (made.bound, made.spread, made.jump))
    return Exact(made.value.reshape(shape), bound=bound, spread=spread, jump=jump)


def rotate(x: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Rotate the two halves of every head of x [b, t, heads, h] by its position's phases (SPEC §4.4, RoPE)."""
    del plan
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


def update_cache(cache: Array, new: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Write new [b, t, g, h] into cache [b, s, g, h] at each row's step: a copy, so nothing may round (SPEC §5)."""
    del plan
    value = cache.copy()
    for row, step in enumerate(scope.steps):
        value[row, step : step + new.shape[1]] = new[row]
    return Exact(value)


def attention_logits(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return the capped logits of query [b, t, q, h] and keys [b, s, g, h]: float64 [b, g, r, t, s] (SPEC §4.4)."""
    config, dtype = scope.config.model, scope.config.fprop_dtype
    b, t, q, h = query.shape
    multiplier = config.attn_output_multiplier
    product_rounded = plan.at(QUERY_KEY) == "rounded"
    if plan.at(SCALE) != "product":
        query, multiplier = round_to(query * multiplier, dtype), 1.0
        product_rounded = plan.at(SCALE) == "query, product rounded"
    grouped = query.reshape(b, t, config.num_kv_heads, q // config.num_kv_heads, h).transpose(0, 2, 3, 1, 4)
    by_group = keys.transpose(0, 2, 3, 1)[:, :, None]  # [b, g, 1, h, s]
    made = Exact(grouped @ by_group)
    made = replace(made, spread=contraction_spread(np.square(grouped) @ np.square(by_group), made.value, h))
    if plan.at(ACCUMULATOR) == "truncates":
        made = truncated(made, h)
    if scope.rounds and product_rounded:
        made = rounded(made, dtype, scope.margin)
    return capped(made, multiplier, plan)


def capped(made: Exact, multiplier: float, plan: RoundingPlan) -> Exact:
    """Return 30·tanh(x/30) of a product times its multiplier (SPEC §4.4)."""
    value = np.tanh(made.value * multiplier / LOGIT_CAP)
    slope = multiplier * (1 - np.square(value))  # of the cap
    value *= LOGIT_CAP
    bound = 6 * np.abs(value) + (SIGMOID_UNITS if plan.at(CAP) == "sigmoid" else 0.0) + slope * made.bound
    # Where the product jumps the slope is not that of one place, but at most 1.
    jump = multiplier * made.jump
    if plan.at(CAP) == "approximate":
        bound = bound + approximation(TANH_APPROXIMATE_ERROR * np.abs(value))
    return Exact(value, bound=bound, spread=slope * made.spread, jump=jump, argument=value)


def attention_weights(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Softmax of logits [b, g, r, t, s] over the visible keys (SPEC §4.4).

    A query that sees no key averages uniformly: over the first step + t slots, or for t = 1 over the whole cache.
    """
    visible = scope.visible  # [b, t, s]
    blind: Array = np.logical_not(visible.any(-1))  # [b, t]
    num_slots, t = visible.shape[-1], visible.shape[1]
    reach = np.full_like(scope.steps, num_slots) if t == 1 else scope.steps + t
    uniform = np.arange(num_slots) < reach[:, None, None]  # [b, 1, s]
    seen = np.where(blind[..., None], uniform, visible)[:, None, None]  # [b, 1, 1, t, s]
    ceiling = LOGIT_CAP if plan.at(MAXIMUM) == "cap" else None
    return softmax(np.where(blind[:, None, None, :, None], 0.0, logits), np.broadcast_to(seen, logits.shape), ceiling)


def attend(weights: Array, values: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Average values [b, s, g, h] by weights [b, g, r, t, s]: [b, t, q, h] (SPEC §4.4)."""
    b, g, r, t, _ = weights.shape
    shape = (b, t, g * r, scope.config.model.key_size)
    by_group = values.transpose(0, 2, 1, 3)[:, :, None]  # [b, g, 1, s, h]
    value, squares = (
        (x @ y).transpose(0, 3, 1, 2, 4).reshape(shape)
        for x, y in ((weights, by_group), (np.square(weights), np.square(by_group)))
    )
    made = Exact(value, spread=contraction_spread(squares, value, values.shape[1]))
    return truncated(made, values.shape[1]) if plan.at(ACCUMULATOR) == "truncates" else made


def project_output(heads: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply the flattened heads [b, t, q·h] by w [q·h, d] (SPEC §4.4)."""
    x = heads.reshape(*heads.shape[:2], -1)
    return product(x, w, scope, plan)
