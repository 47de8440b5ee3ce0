"""Results and statistics in fewer digits than the specification allows: of norms, rotations, probabilities, weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import EPSILON, ROPE_BASE
from grok_conformance.harness.faults.functions import Elementwise
from grok_conformance.harness.faults.narrow_arithmetic import bf16, to_fp8
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.operations import attention, norm, router
from grok_conformance.harness.graph.quantised import FP8_MAX, INT8_MAX, SMALLEST_SCALE
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Function, Multiply, Scope

INT4_MAX = 7.0

NUM_SQUARES = 8
"""Squares between two roundings of a norm's sum."""


def float16(x: Array) -> Array:
    """Round to float16."""
    return round_to(x, "float16")


def unchanged(x: Array) -> Array:
    """Leave values as they are."""
    return x


# Float32 ports


def multiplying_in_float32(multiply: Multiply) -> Callable[[Scope], Scope]:
    """Return a change of how a float32 port multiplies by a stored matrix; a narrower one is left as it is."""
    return lambda scope: scope if scope.rounds else replace(scope, multiply=multiply)


def of_both(change: Elementwise) -> Multiply:
    """Return a product of changed activations and changed weights."""
    return lambda x, w: change(x) @ change(w)


def result_of(function: Function, change: Elementwise, *, anywhere: bool = False) -> Function:
    """Return a function of the graph whose result is changed: that of a float32 port alone, or of `anywhere`."""

    def changed(*values: Any, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = function(*values, scope=scope, plan=plan)
        return replace(honest, value=change(honest.value)) if anywhere or not scope.rounds else honest

    return changed


# Weights


def of_quantised(largest: float, to_grid: Elementwise) -> Multiply:
    """Return a product by weights that were stored again, with one scale per output channel."""

    def multiply(x: Array, w: Array) -> Array:
        scale = np.maximum(np.abs(w).max(-2, keepdims=True) / largest, SMALLEST_SCALE)
        return np.asarray(x @ (to_grid(w / scale) * scale))

    return multiply


WEIGHT_GRIDS = {"fp8": of_quantised(FP8_MAX, to_fp8), "int8": of_quantised(INT8_MAX, np.round),
                "int4": of_quantised(INT4_MAX, np.round)}  # fmt: skip


def int8_per_tensor(x: Array) -> Array:
    """Round to int8 with one scale for all."""
    scale = np.maximum(np.abs(x).max(initial=0.0) / INT8_MAX, SMALLEST_SCALE)
    rounded: Array = np.round(x / scale) * scale
    return rounded


# Norms


def norm_of(mean: Elementwise, inverse: Elementwise, gain: Elementwise) -> Function:
    """Return a norm whose mean of squares, inverse root or gains are changed."""

    def rms_norm(x: Array, scale: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = norm.rms_norm(x, gain(scale), scope=scope, plan=plan)
        right = (x * x).mean(-1, keepdims=True)
        ratio = inverse(1 / np.sqrt(mean(right) + EPSILON)) * np.sqrt(right + EPSILON)
        return replace(honest, value=honest.value * ratio)

    return rms_norm


def norm_of_bf16_sum(x: Array, scale: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Normalise by a sum of squares that is rounded to bf16 after every few."""
    total = np.zeros_like(x[..., :1])
    for first in range(0, x.shape[-1], NUM_SQUARES):
        total = bf16(total + np.square(x[..., first : first + NUM_SQUARES]).sum(-1, keepdims=True))
    summed = norm_of(lambda _: total / x.shape[-1], unchanged, unchanged)
    return summed(x, scale, scope=scope, plan=plan)


# Rotations


def rotated_by(frequency: Elementwise, phase: Elementwise) -> Function:
    """Return a rotation whose frequencies or phases are changed."""

    def rotate(x: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        half = x.shape[-1] // 2
        positions = scope.steps[:, None] + np.arange(x.shape[1])  # [b, t]
        frequencies = frequency(ROPE_BASE ** (-np.arange(half) / half))
        angle = phase(positions[:, :, None] * frequencies)[:, :, None, :]  # [b, t, 1, h/2]
        cos, sin, first, second = np.cos(angle), np.sin(angle), x[..., :half], x[..., half:]
        value = np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)
        return replace(attention.rotate(x, scope=scope, plan=plan), value=value)

    return rotate


# Probabilities


def softmax_of_experts_in_bf16(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Round after every step of the softmax over experts to bf16."""
    honest = router.router_probabilities(logits, scope=scope, plan=plan)
    raised = bf16(np.exp(bf16(logits - logits.max(-1, keepdims=True))))
    return replace(honest, value=bf16(raised / bf16(raised.sum(-1, keepdims=True))))
