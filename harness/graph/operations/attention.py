"""Attention: projections, rotary embedding, cache, capped logits, mask and softmax (SPEC §4.3, §4.4, §5)."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import LOGIT_CAP, ROPE_BASE
from grok_conformance.harness.graph.arithmetic import (
    TANH_APPROXIMATE_ERROR,
    UNIT_ROUNDOFF,
    add_rounded,
    approximation,
    contraction_spread,
    round_to,
    rounded,
    rounding_jump,
    softmax,
    times,
)
from grok_conformance.harness.graph.products import accumulated, product
from grok_conformance.harness.graph.rounding import EVENLY, HARDWARE_TANH, Point, RoundingPlan, rounding_point
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.graph.sharing import evenly, in_tiles

QUERY_KEY = rounding_point("query · key", "rounded", "q·k not rounded before it is scaled")
NARROW = "narrow "
"""Begins the choices in which the constant is rounded too, as a compiler makes it of the dtype of what it scales."""

SCALED_FIRST = {
    f"{narrow}{name}": f"{what} before the product{constant}, in the compute dtype"
    for narrow, constant in (("", ""), (NARROW, " by the rounded multiplier"))
    for name, what in (
        ("query", "q scaled"), ("keys", "k scaled"), ("both", "q and k each scaled by the root"),
    )
}  # fmt: skip
PRODUCT_ROUNDED = ", product rounded"
SCALE = Point(
    "scale",
    {
        "product": "",
        **SCALED_FIRST,
        **{f"{name}{PRODUCT_ROUNDED}": f"{words}, and the product rounded" for name, words in SCALED_FIRST.items()},
        "constant": "attn_output_multiplier rounded to the compute dtype",
        "result": "q·k rounded once more after it is scaled, before the cap",
    },
)
CAP = Point(
    "cap",
    {
        "exact": "",
        "sigmoid": "tanh of the cap as 2·sigmoid(2x) − 1",
        HARDWARE_TANH: "tanh of the cap approximated to 2⁻¹¹ (tanh.approx)",
    },
    narrow=False,
    approximation=True,
)
SIGMOID_UNITS = 4 * LOGIT_CAP
"""What 2·sigmoid(2x) − 1 for tanh adds to the error of a capped logit, absolutely, in units of u(float32)."""

SPLITS = Point(
    "splits",
    {
        "whole": "",
        **{
            f"{n}{sharing}": f"keys attended in {n} splits{words}, the average of each rounded before they are merged"
            for n in (2, 3, 4, 8)
            for sharing, words in (("", ""), (EVENLY, " of nearly equal length"))
        },
    },
)
SHARE_UNITS = 4 + 2 * LOGIT_CAP
"""Of the share of a split, exp of its log-sum-exp less that of all: roundings of both, which the cap bounds."""

ENDS = ("first", "last")
"""From which key on a kernel goes through them."""

TILES = (4, 8, 16, 32, 64, 128)
"""Numbers of keys that a kernel attends at a time, rescaling what it has whenever the maximum grows."""

SUMMED = Point(
    "summed",
    {
        "normalised": "",
        "rounded": "exp(l − max) rounded before the product with v, and divided by the sum of that after it",
        **{
            f"kept{tiles}": f"exp(l − max) rounded before the product with v, and divided by its sum after it{words}"
            for tiles, words in (
                ("", ""),
                *((f" from {end}, {n}", f", in tiles of {n} keys from the {end}") for n in TILES for end in ENDS),
            )
        },
    },
    alone=True,
)

ROTATED = rounding_point("rotated", "kept", "each of the two products of the rotation rounded before they are added")

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
    half = x.shape[-1] // 2
    frequencies = ROPE_BASE ** (-np.arange(half) / half)  # [h/2]
    positions = scope.steps[:, None] + np.arange(x.shape[1])  # [b, t]
    phase = (positions[:, :, None] * np.concatenate([frequencies, frequencies]))[:, :, None, :]  # [b, t, 1, h]
    cos, sin = np.cos(phase), np.sin(phase)
    turned = np.concatenate([-x[..., half:], x[..., :half]], -1)
    terms = x * cos, turned * sin
    # A float32 phase carries the roundings of the product and of the frequency, a power: where it is exp of a product
    # in [8, 16) = ln 10000 · 2j/h, the rounding of that product and of ln 10000 alone add 8 units each.
    units = 1 + 16 * phase
    across = abs(x * sin), abs(turned * cos)
    argument = np.broadcast_to(positions[:, :, None, None], x.shape)
    if scope.rounds and plan.at(ROTATED) == "rounded":
        dtype = scope.config.fprop_dtype
        parts = [
            rounded(Exact(term, bound=2 * abs(term) + units * off), dtype, scope.margin)
            for term, off in zip(terms, across, strict=True)
        ]
        return replace(add_rounded(parts, dtype), argument=argument)
    bound = 3 * (abs(terms[0]) + abs(terms[1])) + units * (across[0] + across[1])
    return Exact(terms[0] + terms[1], bound=bound, argument=argument)


def update_cache(cache: Array, new: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Write new [b, t, g, h] into cache [b, s, g, h] at each row's step: a copy, so nothing may round (SPEC §5)."""
    del plan
    value = cache.copy()
    for row, step in enumerate(scope.steps):
        value[row, step : step + new.shape[1]] = new[row]
    return Exact(value)


def attention_logits(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return the capped logits of query [b, t, q, h] and keys [b, s, g, h]: float64 [b, g, r, t, s] (SPEC §4.4)."""
    return capped(*scores(query, keys, scope, plan), plan)


def scores(query: Array, keys: Array, scope: Scope, plan: RoundingPlan) -> tuple[Exact, float]:
    """Return the products of query and keys [b, g, r, t, s], and what they are still to be multiplied by."""
    config, dtype = scope.config.model, scope.config.fprop_dtype
    b, t, q, h = query.shape
    multiplier = config.attn_output_multiplier
    scale, product_rounded = plan.at(SCALE), plan.at(QUERY_KEY) == "rounded"
    if scale.removesuffix(PRODUCT_ROUNDED) in SCALED_FIRST:
        query, keys = scaled_first(query, keys, scope, scale.removesuffix(PRODUCT_ROUNDED))
        multiplier, product_rounded = 1.0, scale.endswith(PRODUCT_ROUNDED)
    if scope.rounds and scale == "constant":
        multiplier = float(round_to(np.asarray(multiplier), dtype))
    grouped = query.reshape(b, t, config.num_kv_heads, q // config.num_kv_heads, h).transpose(0, 2, 3, 1, 4)
    by_group = keys.transpose(0, 2, 3, 1)[:, :, None]  # [b, g, 1, h, s]
    made = Exact(grouped @ by_group)
    made = replace(made, spread=contraction_spread(np.square(grouped) @ np.square(by_group), made.value, h))
    made = accumulated(made, h, plan)
    if scope.rounds and product_rounded:
        made = rounded(made, dtype, scope.margin)
    if scope.rounds and scale == "result":
        made, multiplier = rounded(times(made, multiplier), dtype, scope.margin), 1.0
    return made, multiplier


def scaled_first(query: Array, keys: Array, scope: Scope, which: str) -> tuple[Array, Array]:
    """Return query and keys of which one is scaled, or both by the root, and rounded to the compute dtype."""
    dtype, multiplier = scope.config.fprop_dtype, scope.config.model.attn_output_multiplier
    factor = math.sqrt(multiplier) if which.endswith("both") else multiplier
    factor = float(round_to(np.asarray(factor), dtype)) if which.startswith(NARROW) else factor
    return (
        query if which.endswith("keys") else round_to(query * factor, dtype),
        keys if which.endswith("query") else round_to(keys * factor, dtype),
    )


def capped(made: Exact, multiplier: float, plan: RoundingPlan) -> Exact:
    """Return 30·tanh(x/30) of a product times its multiplier (SPEC §4.4)."""
    value = np.tanh(made.value * multiplier / LOGIT_CAP)
    slope = multiplier * (1 - np.square(value))  # of the cap
    value *= LOGIT_CAP
    bound = 6 * np.abs(value) + (SIGMOID_UNITS if plan.at(CAP) == "sigmoid" else 0.0) + slope * made.bound
    # Where the product jumps the slope is not that of one place, but at most 1.
    jump = multiplier * made.jump
    if plan.at(CAP) == HARDWARE_TANH:
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
    """Average values [b, s, g, h] by weights [b, g, r, t, s]: [b, t, q, h] (SPEC §4.4).

    Where the keys are attended in splits, the average of each is rounded before they are merged.
    """
    if not scope.rounds or plan.at(SPLITS) == SPLITS.published:
        return averaged(weights, values, scope, plan)
    splits = plan.at(SPLITS)
    share_out = evenly if splits.endswith(EVENLY) else in_tiles
    merged = []
    for at in share_out(values.shape[1], int(splits.removesuffix(EVENLY))):
        part = averaged(weights[..., at], values[:, at], scope, plan)  # [b, t, q, h]
        total = weights[..., at].sum(-1).transpose(0, 3, 1, 2).reshape(*part.value.shape[:-1], 1)
        mean = np.where(total > 0, total, 1.0)
        made = rounded(Exact(part.value / mean, spread=part.spread / mean), scope.config.fprop_dtype, scope.margin)
        merged.append(Exact(made.value * total, jump=made.jump * total))
    value = np.sum([part.value for part in merged], 0)
    size = np.sum([np.abs(part.value) for part in merged], 0)
    # The shares are exponentials of differences of logarithms of sums, each known to a few units of its size.
    return Exact(value, bound=SHARE_UNITS * size, jump=np.sum([np.asarray(part.jump) for part in merged], 0))


def largest_so_far(weights: Array, tiles: str) -> Array:
    """Return the largest of weights [..., s] in each one's tile and those before; `tiles` is an end and a size."""
    end, size = tiles.split(", ")
    turned = weights if end == ENDS[0] else weights[..., ::-1]
    starts = np.arange(0, weights.shape[-1], int(size))
    if end != ENDS[0]:  # whole tiles are counted from the first key
        starts = np.unique(np.maximum(0, starts - (-weights.shape[-1] % int(size))))
    so_far = np.maximum.accumulate(np.maximum.reduceat(turned, starts, -1), -1)
    spread: Array = np.repeat(so_far, np.diff([*starts, weights.shape[-1]]), -1)
    return spread if end == ENDS[0] else spread[..., ::-1]


def averaged(weights: Array, values: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Average values [b, s, g, h] by weights [b, g, r, t, s], as they are or rounded before that: [b, t, q, h]."""
    if scope.rounds and plan.at(SUMMED) != SUMMED.published:
        weights, reach = unnormalised(weights, scope.config.fprop_dtype, plan.at(SUMMED))
        made = products_with(weights, values)
        jump = products_with(reach, np.abs(values)).value
        made = replace(made, bound=SHARE_UNITS * np.abs(made.value), jump=jump)
    else:
        made = products_with(weights, values)
    return accumulated(made, values.shape[1], plan)


def products_with(weights: Array, values: Array) -> Exact:
    """Multiply weights [b, g, r, t, s] by values [b, s, g, h]: [b, t, q, h]."""
    b, g, r, t, s = weights.shape
    shape = (b, t, g * r, values.shape[-1])
    by_group = values.transpose(0, 2, 1, 3)[:, :, None]  # [b, g, 1, s, h]
    value, squares = (
        (x @ y).transpose(0, 3, 1, 2, 4).reshape(shape)
        for x, y in ((weights, by_group), (np.square(weights), np.square(by_group)))
    )
    return Exact(value, spread=contraction_spread(squares, value, s))


def unnormalised(weights: Array, dtype: str, choice: str) -> tuple[Array, Array]:
    """Return weights [..., s] of which p = exp(l − max) was rounded to a dtype, and by how much that can jump.

    A weight is p over its sum, and p is 1 where it is largest. In tiles the maximum is that of the keys so far.
    """
    tiles = choice.partition(" from ")[2]
    top = largest_so_far(weights, tiles) if tiles else weights.max(-1, keepdims=True)
    top = np.where(top > 0, top, 1.0)  # [..., s or 1]
    p = weights / top
    jump = np.abs(rounding_jump(p, UNIT_ROUNDOFF["float32"] * SHARE_UNITS * p, dtype)) * top
    narrow = round_to(p, dtype) * top
    if not choice.startswith("rounded"):
        return narrow, jump
    total = narrow.sum(-1, keepdims=True)
    share = np.divide(weights.sum(-1, keepdims=True), total, out=np.ones_like(total), where=total > 0)
    return narrow * share, jump * share


def project_output(heads: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply the flattened heads [b, t, q·h] by w [q·h, d] (SPEC §4.4)."""
    x = heads.reshape(*heads.shape[:2], -1)
    return product(x, w, scope, plan)
