"""Root-mean-square normalisation and the residual stream (SPEC §4, RMSNorm; §4.5, §4.7)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import EPSILON
from grok_conformance.harness.graph.arithmetic import approximation, contraction_spread, rounded
from grok_conformance.harness.graph.rounding import Point, RoundingPlan, rounding_point
from grok_conformance.harness.graph.row import Exact, Scope

ROOT = Point(
    "root",
    {"exact": "", "approximate": "inverse root approximated to 2⁻²² (a short estimate and one Newton step)"},
    narrow=False,
    approximation=True,
)
ROOT_APPROXIMATE_ERROR = 2.0**-22
"""Largest relative error of one Newton step from an estimate of 12 bits, 1.5 · (1.5 · 2⁻¹²)² (Intel SDM, RSQRTPS)."""

NORMALISED = rounding_point("normalised", "kept", "normalised value rounded before the gain")


def rms_norm(x: Array, gain: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return x · rsqrt(mean(x²) + 1e-5) · gain for x [..., d] and gain [d] (SPEC §4).

    A kernel may take the squares of an unrounded x and scale the one that it stored.
    """
    measured = x if scope.measured is None else scope.measured
    squares = measured * measured
    total = squares.sum(-1, keepdims=True)
    mean = total / x.shape[-1] + EPSILON
    normalised = x / np.sqrt(mean)
    sum_spread = contraction_spread((squares * squares).sum(-1, keepdims=True), total, x.shape[-1])
    relative = 0.5 * sum_spread / x.shape[-1] / mean  # half the relative error of the mean goes through rsqrt
    argument = np.broadcast_to(mean, x.shape)
    off = approximation(np.asarray(ROOT_APPROXIMATE_ERROR)) if plan.at(ROOT) == "approximate" else 0.0
    if scope.rounds and plan.at(NORMALISED) == "rounded":
        size = np.abs(normalised)
        inner = rounded(
            Exact(normalised, bound=(3 + off) * size, spread=size * relative), scope.config.fprop_dtype, scope.margin
        )
        value = inner.value * gain
        return Exact(value, bound=np.abs(value), jump=np.abs(inner.jump * gain), argument=argument)
    value = normalised * gain
    return Exact(
        value, bound=(4 + off) * np.abs(value), spread=np.abs(value) * relative, shared=True, argument=argument
    )


def add_residual(x: Array, update: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return x + update, both [b, t, d] (SPEC §4.5, §4.7)."""
    del scope, plan
    return Exact(x + update, bound=np.abs(x) + np.abs(update), argument=x)
