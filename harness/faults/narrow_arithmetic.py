"""Arithmetic in fewer digits than the specification allows: operands, products, sums, functions.

A product takes x [..., k] and w [k, n] and returns [..., n], in float64; a function of the graph has the signature of
the honest one, and the errors of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import EPSILON, LOGIT_CAP, ROPE_BASE
from grok_conformance.harness.faults.functions import (
    Elementwise,
    grouped,
    round_to_tf32,
    scaled_logits,
)
from grok_conformance.harness.graph import quantised
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.operations import attention, experts, norm, router
from grok_conformance.harness.graph.products import product_by_expert
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Function, Multiply, Scope
from grok_conformance.harness.graph.sharing import evenly

BF16_BITS = 8
"""Significant bits of bfloat16, the hidden one included."""


def bf16(x: Array) -> Array:
    """Round to bfloat16."""
    return round_to(x, "bfloat16")


def round_to_bits(x: Array, num_bits: int) -> Array:
    """Round to so many significant bits, ties to even."""
    mantissa, exponent = np.frexp(x)
    rounded: Array = np.ldexp(np.round(np.ldexp(mantissa, num_bits)), exponent - num_bits)
    return rounded


# Operands


def to_fp8(x: Array) -> Array:
    """Round to float8_e4m3fn."""
    return x.astype(np.float32).astype(ml_dtypes.float8_e4m3fn).astype(np.float64)


def int8_per_token(x: Array) -> Array:
    """Round to int8 with one scale for the last axis."""
    return quantised.int8(x, 0.0)


def fp8_per_token(x: Array) -> Array:
    """Round to float8_e4m3fn with one scale for the last axis."""
    return quantised.fp8(x, 0.0)


def through_fp8(x: Array) -> Array:
    """Round to float8_e4m3fn with one scale for the last axis, and then to bfloat16."""
    return bf16(fp8_per_token(x))


def int8_in_blocks(x: Array) -> Array:
    """Round to int8 in blocks of 32 of the last axis, with a float16 scale each."""
    return quantised.int8_in_blocks(x, 0.0)


def of_activations(change: Elementwise) -> Multiply:
    """Return a product of changed activations."""
    return lambda x, w: change(x) @ w


def of_requantised(x: Array, w: Array) -> Array:
    """Multiply by weights that were stored again as Q8_0."""
    return x @ np.swapaxes(int8_in_blocks(np.swapaxes(w, -1, -2)), -1, -2)


# Products


def in_tf32(x: Array, w: Array) -> Array:
    """Multiply operands of 10 mantissa bits."""
    return round_to_tf32(x) @ round_to_tf32(w)


def in_three_bf16_products(x: Array, w: Array) -> Array:
    """Multiply two bf16 pieces of every operand, the product of both small ones left out."""
    (x_large, x_small), (w_large, w_small) = ((bf16(each), bf16(each - bf16(each))) for each in (x, w))
    total: Array = x_large @ w_large + x_large @ w_small + x_small @ w_large
    return total


def accumulated(num_bits: int, every: int) -> Multiply:
    """Return a product whose sum is rounded to so many bits after every few terms.

    A sum of no more terms than these is rounded once, as an honest result may be: it is no fault, and left as it is.
    """

    def multiply(x: Array, w: Array) -> Array:
        if x.shape[-1] <= every:
            return np.asarray(x @ w)
        total = np.zeros((*x.shape[:-1], w.shape[-1]))
        for first in range(0, x.shape[-1], every):
            total = round_to_bits(total + x[..., first : first + every] @ w[first : first + every], num_bits)
        return total

    return multiply


def parts_in_fp8(num_parts: int) -> Multiply:
    """Return a product of which so many ranks have a part each, sent in fp8 with a scale per token."""

    def multiply(x: Array, w: Array) -> Array:
        total = np.zeros((*x.shape[:-1], w.shape[-1]))
        for at in evenly(x.shape[-1], num_parts):
            total += fp8_per_token(x[..., at] @ w[at])
        return total

    return multiply


def cut_off(x: Array, w: Array) -> Array:
    """Multiply, and cut the result off to bf16 instead of rounding it to the nearest."""
    bits = (x @ w).astype(np.float32).view(np.int32)
    cut: Array = (bits & np.int32(-65536)).view(np.float32).astype(np.float64)
    return cut


def multiplying(multiply: Multiply) -> Callable[[Scope], Scope]:
    """Return a change of how an operation multiplies by a stored matrix."""
    return lambda scope: replace(scope, multiply=multiply)


# Functions


def norm_of_bf16_squares(x: Array, gain: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Normalise by a mean of squares that were each rounded to bf16."""
    honest = norm.rms_norm(x, gain, scope=scope, plan=plan)
    right, rounded = (each.mean(-1, keepdims=True) + EPSILON for each in (x * x, bf16(x * x)))
    return replace(honest, value=honest.value * np.sqrt(right / rounded))


def norm_by_bf16_gain(x: Array, gain: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply by gains rounded to bf16."""
    return norm.rms_norm(x, bf16(gain), scope=scope, plan=plan)


def gelu_in_bf16(x: Array) -> Array:
    """Round after every step of gelu to bf16."""
    cubed = bf16(bf16(x * x) * x)
    argument = bf16(experts.GELU_FACTOR * bf16(x + bf16(0.044715 * cubed)))
    return bf16(bf16(0.5 * x) * bf16(1 + bf16(np.tanh(argument))))


def scores_in_bf16(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Round to bf16 after the product, its multiplier, the division by 30, tanh and the multiplication by 30."""
    honest = attention.attention_logits(query, keys, scope=scope, plan=plan)
    multiplier = float(bf16(np.asarray(scope.config.model.attn_output_multiplier)))
    plain = replace(scope, config=replace(scope.config, model=replace(scope.config.model, attn_output_multiplier=1.0)))
    scaled = bf16(bf16(scaled_logits(grouped(query, keys.shape[2]), keys, plain)) * multiplier)
    return replace(honest, value=bf16(LOGIT_CAP * bf16(np.tanh(bf16(scaled / LOGIT_CAP)))))


def softmax_steps_in_bf16(given: Elementwise) -> Function:
    """Return a softmax that rounds after every step to bf16, of logits as they are `given` to it."""

    def softmax(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = attention.attention_weights(logits, scope=scope, plan=plan)
        visible = np.broadcast_to(scope.visible[:, None, None], logits.shape)
        largest = np.where(visible, logits, -np.inf).max(-1, keepdims=True)
        sees = visible.any(-1, keepdims=True)
        raised = np.where(visible, np.exp(bf16(given(logits) - given(np.where(sees, largest, 0.0)))), 0.0)
        raised = bf16(raised)
        total = bf16(raised.sum(-1, keepdims=True))
        return replace(honest, value=np.where(sees, bf16(raised / np.where(sees, total, 1.0)), honest.value))

    return softmax


def averaged_in_fp8(weights: Array, values: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Average values by attention weights in fp8."""
    return attention.attend(to_fp8(weights), values, scope=scope, plan=plan)


def averaged_in_bf16(every: int) -> Function:
    """Return heads whose sum over the slots is rounded to bf16 after every few of them."""

    def attend(weights: Array, values: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = attention.attend(weights, values, scope=scope, plan=plan)
        if values.shape[1] <= every:
            return honest
        multiply = accumulated(BF16_BITS, every)
        b, g, r, t, s = weights.shape
        rows = weights.reshape(b, g, r * t, s)
        made = np.stack([[multiply(rows[i, j], values[i, :, j]) for j in range(g)] for i in range(b)])
        made = made.reshape(b, g, r, t, -1).transpose(0, 3, 1, 2, 4)
        return replace(honest, value=made.reshape(honest.value.shape))

    return attend


def logits_in_int8(query: Array, keys: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply queries and keys that are int8 with one scale per head and token."""
    kept = plan.but(attention.QUERY_KEY, "kept")
    return attention.attention_logits(int8_per_token(query), int8_per_token(keys), scope=scope, plan=kept)


def rotated_in_bf16(x: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Rotate with cos, sin, both products and their sum in bf16."""
    honest = attention.rotate(x, scope=scope, plan=plan)
    half = x.shape[-1] // 2
    frequencies = ROPE_BASE ** (-np.arange(half) / half)
    phase = ((scope.steps[:, None] + np.arange(x.shape[1]))[:, :, None] * frequencies)[:, :, None, :]
    cos, sin = bf16(np.cos(phase)), bf16(np.sin(phase))
    first, second = x[..., :half], x[..., half:]
    turned = [bf16(bf16(first * cos) - bf16(second * sin)), bf16(bf16(second * cos) + bf16(first * sin))]
    return replace(honest, value=np.concatenate(turned, -1))


def cached_as(change: Elementwise) -> Function:
    """Return a cache that stores what is new in fewer bits."""

    def update_cache(cache: Array, new: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        return attention.update_cache(cache, in_compute_dtype(change(new), scope), scope=scope, plan=plan)

    return update_cache


def in_compute_dtype(x: Array, scope: Scope) -> Array:
    """Round to the compute dtype."""
    return round_to(x, scope.config.fprop_dtype)


def rotated_by_half_phase(x: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Rotate by phases that are products in float16 of positions and frequencies."""
    half = x.shape[-1] // 2
    frequencies = round_to(ROPE_BASE ** (-np.arange(half) / half), "float16")
    positions = round_to((scope.steps[:, None] + np.arange(x.shape[1])).astype(np.float64), "float16")
    phase = round_to(positions[:, :, None] * frequencies, "float16")[:, :, None, :]
    first, second = x[..., :half], x[..., half:]
    turned = (
        first * np.cos(phase) - second * np.sin(phase),
        second * np.cos(phase) + first * np.sin(phase),
    )
    return replace(attention.rotate(x, scope=scope, plan=plan), value=np.concatenate(turned, -1))


def exponential_by_bits(x: Array) -> Array:
    """Return exp by a straight line between powers of two, written into the bits of a float32 (Schraudolph, 1999)."""
    bits = np.maximum(x, -80.0) * (2**23 / math.log(2)) + (127 * 2**23 - 366393)
    return np.trunc(bits).astype(np.int32).view(np.float32).astype(np.float64)


def softmax_by_bits(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Take the softmax with an exponential that is within 3 %."""
    honest = attention.attention_weights(logits, scope=scope, plan=plan)
    visible = np.broadcast_to(scope.visible[:, None, None], logits.shape)
    largest = np.where(visible, logits, -LOGIT_CAP).max(-1, keepdims=True)
    raised = np.where(visible, exponential_by_bits(logits - largest), 0.0)
    total = raised.sum(-1, keepdims=True)
    return replace(honest, value=np.where(total > 0, raised / np.where(total > 0, total, 1.0), honest.value))


def expert_in_of_gated(x: Array, index: Array, gate: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [b, t, d] by the gates [b, t, c] before the experts' matrices [e, d, f]."""
    rows = in_compute_dtype(x[:, :, None, :] * gate[..., None], scope)
    return product_by_expert(rows, w, index.astype(np.int64), scope, plan)


def combined_without_gates(gate: Array, outputs: Array, index: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Sum the outputs [b, t, c, d] as they are."""
    return experts.combine(np.ones_like(gate), outputs, index, scope=scope, plan=plan)


def router_logits_rounded(x: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Round the router's logits to bf16."""
    honest = router.router_logits(x, w, scope=scope, plan=plan)
    return replace(honest, value=bf16(honest.value))
