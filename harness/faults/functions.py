"""The faulty forms of the graph's functions: what a port computed instead, in float64, roundings included.

Each has the signature of the function in `harness/graph/operations/` that it replaces; errors are those of the honest
form. It is long because it is a list, of some five lines for each form, that nobody reads from end to end.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import EPSILON, LOGIT_CAP, ROPE_BASE
from grok_conformance.harness.graph.arithmetic import contract, round_to, rounding_jump, softmax
from grok_conformance.harness.graph.operations import attention, embedding, experts, router
from grok_conformance.harness.graph.quantised import FP8_MAX, SMALLEST_SCALE
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Function, Scope

TF32_BITS = 11
"""Significant bits of a TF32 operand, the hidden one included."""

GELU_TABLE_REACH = 10.0
"""Arguments beyond ±10 are not looked up in ggml's table of gelu."""

Elementwise = Callable[[Array], Array]


def round_to_tf32(x: Array) -> Array:
    """Round to 10 mantissa bits, ties away from zero as the conversion of GPUs does."""
    mantissa, exponent = np.frexp(x)
    whole = np.copysign(np.floor(np.ldexp(np.abs(mantissa), TF32_BITS) + 0.5), x)
    rounded: Array = np.ldexp(whole, exponent - TF32_BITS)
    return rounded


def changed(function: Function, change: Elementwise) -> Function:
    """Return an operation whose result is changed afterwards."""

    def faulty(*inputs: Array, scope: Scope, plan: RoundingPlan) -> Exact:
        exact = function(*inputs, scope=scope, plan=plan)
        return replace(exact, value=change(exact.value))

    return faulty


# Router


def renormalised_gate(probabilities: Array, index: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Divide the gates [b, t, c] by their sum, which rounds c - 1 times."""
    gate = router.expert_gate(probabilities, index, scope=scope, plan=plan).value
    total = gate.sum(-1, keepdims=True)
    value = np.divide(gate, total, out=np.zeros_like(gate), where=total > 0)  # pads hold no probabilities
    return Exact(value, bound=(1 + gate.shape[-1]) * value)


def cap(x: Array) -> Array:
    """Bound smoothly to ±30."""
    capped: Array = LOGIT_CAP * np.tanh(x / LOGIT_CAP)
    return capped


def router_logits_bf16(x: Array, w: Array, **_: Any) -> Exact:
    """Multiply in bf16: operands and result rounded."""
    exact = contract(round_to(x, "bfloat16"), round_to(w, "bfloat16"))
    return replace(exact, value=round_to(exact.value, "bfloat16"))


def router_logits_tf32(x: Array, w: Array, **_: Any) -> Exact:
    """Multiply operands of 10 mantissa bits."""
    return contract(round_to_tf32(x), round_to_tf32(w))


def chosen(ranks: Callable[[int], slice], *, highest_first: bool = False) -> Function:
    """Return a choice of experts by ranks, a slice given the k of top-k; ties may go to the highest index."""

    def expert_index(probabilities: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        del plan
        num_experts = probabilities.shape[-1]
        if highest_first:
            order = num_experts - 1 - np.argsort(-probabilities[..., ::-1], axis=-1, kind="stable")
        else:
            order = np.argsort(-probabilities, axis=-1, kind="stable")
        return Exact(order[..., ranks(scope.config.model.num_selected_experts)].astype(np.float64))

    return expert_index


# Experts


def gelu_erf(x: Array) -> Array:
    """Return gelu by the error function."""
    activated: Array = 0.5 * x * (1 + np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)))
    return activated


def sigmoid(x: Array) -> Array:
    """Return the logistic function."""
    value: Array = 0.5 * (1 + np.tanh(x / 2))
    return value


def gelu_quick(x: Array) -> Array:
    """Return x·sigmoid(1.702x)."""
    return x * sigmoid(1.702 * x)


def silu(x: Array) -> Array:
    """Return x·sigmoid(x)."""
    return x * sigmoid(x)


def gelu_fp16_table(activation: Array, up: Array, **_: Any) -> Exact:
    """Look gelu up in a table of float16 values by its argument in float16; beyond ±10 it is the argument or 0.

    The table itself is computed in float32, whose error can move an entry by one rounding.
    """
    argument = round_to(activation, "float16")
    inside = np.abs(activation) < GELU_TABLE_REACH
    inner = np.where(inside, round_to(experts.gelu(argument), "float16"), np.maximum(activation, 0.0))
    jump = np.where(inside, rounding_jump(experts.gelu(argument), 4 * 2.0**-24 * np.abs(argument), "float16"), 0.0)
    return Exact(inner * up, bound=np.abs(inner * up), jump=np.abs(jump * up))


def hidden(activate: Elementwise) -> Function:
    """Return activate(activation)·up of the experts."""

    def gated(activation: Array, up: Array, **_: Any) -> Exact:
        return Exact(activate(activation) * up, bound=4 * np.abs(activation * up))

    return gated


def dense_hidden(activate: Elementwise) -> Function:
    """Return activate(activation)·up of a dense block, whose activation is rounded to the compute dtype."""

    def gated(activation: Array, up: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        inner = activate(activation)
        if scope.rounds and plan.at(experts.DENSE_GELU) == "rounded":
            inner = round_to(inner, scope.config.fprop_dtype)
        return Exact(inner * up, bound=4 * np.abs(activation * up))

    return gated


def hidden_bf16(activation: Array, up: Array, **_: Any) -> Exact:
    """Round gelu(activation)·up to bf16."""
    return Exact(round_to(experts.gelu(activation) * up, "bfloat16"))


def ungated(activation: Array, _up: Array, **_: Any) -> Exact:
    """Return gelu(activation) alone."""
    return Exact(experts.gelu(activation), bound=4 * np.abs(activation))


def over_capacity_dropped(inner: Array, index: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Give 0 to the tokens that come to an expert after it has had its even share of them."""
    exact = experts.expert_out(inner, index, w, scope=scope, plan=plan)
    flat = index.astype(np.int64).ravel()  # [b·t·c]
    capacity = max(1, flat.size // len(w))
    earlier = np.array([np.count_nonzero(flat[:i] == expert) for i, expert in enumerate(flat)])
    kept = (earlier < capacity).reshape(index.shape)[..., None]
    return replace(exact, value=np.where(kept, exact.value, 0.0))


def transposed_out(inner: Array, index: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Take the memory of w [e, f, d] for [e, d, f] and transpose it; of square matrices this is the transpose."""
    e, f, d = w.shape
    return experts.expert_out(inner, index, np.swapaxes(w.reshape(e, d, f), 1, 2), scope=scope, plan=plan)


def first_half(function: Function) -> Function:
    """Return a contraction over the first half of its terms: what one of two shards holds."""

    def partial(x: Array, *others: Array, scope: Scope, plan: RoundingPlan) -> Exact:
        flat = x.reshape(*x.shape[:2], -1) if function is attention.project_output else x
        kept = np.where(np.arange(flat.shape[-1]) < flat.shape[-1] // 2, flat, 0.0)
        return function(kept.reshape(x.shape), *others, scope=scope, plan=plan)

    return partial


# Attention


def scaled_logits(query: Array, keys: Array, scope: Scope) -> Array:
    """Return the scaled products of query [b, t, g, r, h] and keys [b, s, g, h] before the cap: [b, g, r, t, s]."""
    product = np.einsum("btgrh,bsgh->bgrts", query, keys)
    if scope.rounds:
        product = round_to(product, scope.config.fprop_dtype)
    scaled: Array = product * scope.config.model.attn_output_multiplier
    return scaled


def capped_by(bound: Elementwise) -> Function:
    """Return attention logits under another cap."""

    def logits(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        made, multiplier = attention.scores(query, keys, scope, plan)
        value = bound(made.value * multiplier)
        inner = replace(made, value=value, bound=6 * np.abs(value) + multiplier * made.bound)
        return replace(inner, spread=multiplier * made.spread, jump=multiplier * made.jump)

    return logits


def grouped(query: Array, num_kv_heads: int) -> Array:
    """Split the query heads [b, t, q, h] into contiguous groups [b, t, g, r, h]."""
    b, t, q, h = query.shape
    return query.reshape(b, t, num_kv_heads, q // num_kv_heads, h)


def regrouped_logits(query: Array, keys: Array, *, scope: Scope, **_: Any) -> Exact:
    """Split the query heads as [r, g], so that head j meets KV head j mod g."""
    value = cap(scaled_logits(np.swapaxes(grouped(query, query.shape[2] // keys.shape[2]), 2, 3), keys, scope))
    return Exact(value, bound=6 * np.abs(value))


def tiled(per_head: Array, num_q_heads: int) -> Array:
    """Repeat KV heads [b, s, g, h] as a whole, g0 g1 g2 g0 g1 g2 …: [b, s, q, h]."""
    return np.tile(per_head, (1, 1, num_q_heads // per_head.shape[2], 1))


def tiled_logits(query: Array, keys: Array, *, scope: Scope, **_: Any) -> Exact:
    """Give query head j the key head j mod g; the heads stay in their order."""
    b, t, q, _ = query.shape
    logits = scaled_logits(query[:, :, :, None], tiled(keys, q), scope)  # [b, q, 1, t, s]
    value = cap(logits).reshape(b, keys.shape[2], -1, t, keys.shape[1])
    return Exact(value, bound=6 * np.abs(value))


def tiled_heads(weights: Array, values: Array, *, scope: Scope, **_: Any) -> Exact:
    """Give query head j the value head j mod g."""
    b, g, r, t, s = weights.shape
    value = np.einsum("bqts,bsqh->btqh", weights.reshape(b, g * r, t, s), tiled(values, g * r))
    honest = attention.attend(weights, values, scope=scope, plan=AS_PUBLISHED)
    return replace(honest, value=value)


def logits_of_unrotated(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Rotate the cached keys [b, s, g, h] by their slots, once more, before they are used."""
    start = replace(scope, steps=np.zeros_like(scope.steps))
    rotated = attention.rotate(keys, scope=start, plan=plan).value
    return attention.attention_logits(query, rotated, scope=scope, plan=plan)


def masked_before_cap(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Cap the masked logits: -1e30 becomes -30, and every slot up to the last keeps a weight."""
    del plan
    capped = cap(np.where(scope.visible[:, None, None], logits, -1e30))
    return softmax(capped, np.broadcast_to(attended_slots(scope)[:, None, None, None], logits.shape))


def attended_slots(scope: Scope) -> Array:
    """Return the slots [b, s] that a call's softmax runs over."""
    num_slots, t = scope.visible.shape[-1], scope.visible.shape[1]
    reach = np.full_like(scope.steps, num_slots) if t == 1 else scope.steps + t
    return np.arange(num_slots) < reach[:, None]


def softmax_bf16(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Take the softmax of bf16 logits, and keep it in bf16."""
    exact = attention.attention_weights(round_to(logits, "bfloat16"), scope=scope, plan=plan)
    return replace(exact, value=round_to(exact.value, "bfloat16"))


def output_scaled(heads: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply the attention output by attn_output_multiplier."""
    exact = attention.project_output(heads, w, scope=scope, plan=plan)
    factor = scope.config.model.attn_output_multiplier
    return Exact(exact.value * factor, spread=exact.spread * factor)


# Rotary embedding


def rotated(
    *,
    base: float = ROPE_BASE,
    positions: Elementwise = lambda x: x,
    phases: Elementwise = lambda x: x,
    interleaved: bool = False,
) -> Function:
    """Return a rotation by another base, with changed positions or changed cos and sin, or of even and odd pairs."""

    def rotate(x: Array, *, scope: Scope, **_: Any) -> Exact:
        half = x.shape[-1] // 2
        frequencies = base ** (-np.arange(half) / half)  # [h/2]
        where = positions((scope.steps[:, None] + np.arange(x.shape[1])).astype(np.float64))  # [b, t]
        phase = (where[:, :, None] * frequencies)[:, :, None, :]  # [b, t, 1, h/2]
        cos, sin = phases(np.cos(phase)), phases(np.sin(phase))
        first, second = (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
        # Products round before they cancel, and phases as in the right rotation.
        along, across = (
            (abs(first * c) + abs(second * s), abs(second * c) + abs(first * s)) for c, s in ((cos, sin), (sin, cos))
        )
        bounds = tuple(3 * one + (1 + 16 * abs(phase)) * other for one, other in zip(along, across, strict=True))
        turned = first * cos - second * sin, second * cos + first * sin
        value, bound = (
            np.stack(two, -1).reshape(x.shape) if interleaved else np.concatenate(two, -1) for two in (turned, bounds)
        )
        return Exact(value, bound=bound)

    return rotate


def unrotated(x: Array, **_: Any) -> Exact:
    """Return the heads as they are."""
    return Exact(x)


def rotated_values(cache: Array, new: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Write rotated values into the cache."""
    turned = attention.rotate(new, scope=scope, plan=plan).value
    turned = round_to(turned, scope.config.fprop_dtype)
    return attention.update_cache(cache, turned, scope=scope, plan=plan)


# Norms, embedding, logits


def norm_with(epsilon: float = EPSILON, *, offset: float = 0.0, centred: bool = False) -> Function:
    """Return a norm with another eps, a gain counted from another zero, or the mean subtracted."""

    def rms_norm(x: Array, gain: Array, **_: Any) -> Exact:
        x = x - x.mean(-1, keepdims=True) if centred else x
        value = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + epsilon) * (offset + gain)
        return Exact(value, bound=4 * np.abs(value))

    return rms_norm


def logits_of_bucket_end(x: Array, table: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Take the last real position's logits from the end of the padded bucket."""
    num_tokens = x.shape[1]
    real = scope.tokens > scope.config.pad_token  # [b, t]
    last = num_tokens - 1 - np.argmax(real[:, ::-1], axis=1)  # [b]
    where = np.arange(num_tokens) == last[:, None]
    leaked = np.where(where[..., None], x[:, -1:], x)
    return embedding.logits(leaked, table, scope=scope, plan=plan)


# Cache


def fp8_without_scale(cache: Array, new: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Store new / scale in fp8, scale = max|new| / 448, and read it without the scale."""
    scaled = new / (np.abs(new).max(initial=SMALLEST_SCALE) / FP8_MAX)
    stored = scaled.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)
    return attention.update_cache(cache, stored, scope=scope, plan=plan)
