"""The feed-forward block: experts, or one dense block (SPEC §4.6)."""

from __future__ import annotations

import math

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import (
    contract,
    contract_by_expert,
    contract_sharded,
    round_to,
    rounding_jump,
)
from grok_conformance.harness.graph.row import Alternative, Exact, Scope

GELU_FACTOR = math.sqrt(2 / math.pi)


def gelu(x: Array) -> Array:
    """Return the tanh approximation of gelu (SPEC §4.6)."""
    activated: Array = 0.5 * x * (1 + np.tanh(GELU_FACTOR * (x + 0.044715 * x * x * x)))
    return activated


def expert_in(x: Array, index: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply x [b, t, d] by the chosen experts' matrices w [e, d, f]: [b, t, c, f] (SPEC §4.6)."""
    del scope, alternative
    rows = np.broadcast_to(x[:, :, None, :], (*index.shape, x.shape[-1]))  # [b, t, c, d]
    return contract_by_expert(rows, w, index.astype(np.int64))


def gated_hidden(activation: Array, up: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Return gelu(activation)·up, elementwise (SPEC §4.6).

    In the left tail 1 + tanh cancels, so the error of gelu is proportional to its argument, not to its value. The
    product is float32; a port may round it to the compute dtype.
    """
    value, bound = gelu(activation) * up, 4 * np.abs(activation * up)
    if not scope.rounds or alternative.product == "kept":
        return Exact(value, bound=bound, argument=activation)
    dtype = scope.config.fprop_dtype
    jump = np.abs(rounding_jump(value, scope.margin * bound, dtype))
    return Exact(round_to(value, dtype), jump=jump, argument=activation)


def dense_hidden(activation: Array, up: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Return gelu(activation)·up of a dense block, gelu rounded to the compute dtype (SPEC §4.6, §9)."""
    if not scope.rounds:
        return gated_hidden(activation, up, scope=scope, alternative=alternative)
    dtype = scope.config.fprop_dtype
    inner = gelu(activation)
    if alternative.inner == "kept":
        return Exact(inner * up, bound=4 * np.abs(activation * up), argument=activation)
    jump = rounding_jump(inner, scope.margin * 4 * np.abs(activation), dtype)
    return Exact(
        round_to(inner, dtype) * up, bound=np.abs(activation * up), jump=np.abs(jump * up), argument=activation
    )


def expert_out(hidden: Array, index: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply hidden [b, t, c, f] by the chosen experts' matrices w [e, f, d]: [b, t, c, d] (SPEC §4.6)."""
    del scope, alternative
    return contract_by_expert(hidden, w, index.astype(np.int64))


def combine(gate: Array, outputs: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Sum the outputs [b, t, c, d] times the gates [b, t, c], which are rounded to the compute dtype (SPEC §4.6)."""
    if scope.rounds and alternative.inner == "rounded":
        gate = round_to(gate, scope.config.fprop_dtype)
    terms = gate[..., None] * outputs
    return Exact(terms.sum(-2), bound=(1 + terms.shape[-2]) * np.abs(terms).sum(-2))


def dense_in(x: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply x [b, t, d] by a dense block's matrix [d, f] (SPEC §4.6)."""
    del scope, alternative
    return contract(x, w)


def dense_out(hidden: Array, w: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply hidden [b, t, f] by a dense block's last matrix [f, d] (SPEC §4.6)."""
    return contract_sharded(hidden, w, alternative.shards, scope.config.fprop_dtype, scope.margin)
