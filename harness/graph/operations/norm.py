"""Root-mean-square normalisation and the residual stream (SPEC §4, RMSNorm; §4.5, §4.7)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import contraction_spread
from grok_conformance.harness.graph.row import Alternative, Exact, Scope

EPSILON = 1e-5


def rms_norm(x: Array, gain: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Return x · rsqrt(mean(x²) + 1e-5) · gain for x [..., d] and gain [d] (SPEC §4)."""
    del scope, alternative
    squares = x * x
    total = squares.sum(-1, keepdims=True)
    mean = total / x.shape[-1] + EPSILON
    value = x / np.sqrt(mean) * gain
    sum_spread = contraction_spread((squares * squares).sum(-1, keepdims=True), total, x.shape[-1])
    relative = 0.5 * sum_spread / x.shape[-1] / mean  # half the relative error of the mean goes through rsqrt
    return Exact(
        value,
        bound=4 * np.abs(value),
        spread=np.abs(value) * relative,
        shared=True,
        argument=np.broadcast_to(mean, x.shape),
    )


def add_residual(x: Array, update: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Return x + update, both [b, t, d] (SPEC §4.5, §4.7)."""
    del scope, alternative
    return Exact(x + update, bound=np.abs(x) + np.abs(update), argument=x)
