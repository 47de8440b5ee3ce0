"""The token embedding and the output logits, which share one table (SPEC §4.2, §4.8)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import contract, round_to, rounding_jump
from grok_conformance.harness.graph.row import Alternative, Exact, Scope


def multiplier(scale: float, scope: Scope, alternative: Alternative) -> float:
    """Return a multiplier as the program holds it: rounded to the compute dtype under jit (78.5), else to float32."""
    dtype = scope.config.fprop_dtype if alternative.constant == "rounded" else "float32"
    return float(round_to(np.asarray(scale), dtype))


def embedding(table: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Look the tokens up in the table float64 [v, d] and multiply by embedding_multiplier_scale (SPEC §4.2)."""
    rows = table[scope.tokens]  # [b, t, d]
    if scope.rounds and alternative.inner == "rounded":
        rows = round_to(rows, scope.config.fprop_dtype)
    value = rows * multiplier(scope.config.embedding_multiplier_scale, scope, alternative)
    return Exact(value, bound=np.abs(value))


def logits(hidden: Array, table: Array, *, scope: Scope, alternative: Alternative) -> Exact:
    """Multiply the hidden state [b, t, d] by the table [v, d] and by output_multiplier_scale (SPEC §4.8)."""
    dtype = scope.config.fprop_dtype
    product = contract(hidden, round_to(table, dtype).T)  # [b, t, v]
    constant = multiplier(scope.config.output_multiplier_scale, scope, alternative)
    if scope.rounds and alternative.inner == "rounded":
        jump = rounding_jump(product.value, scope.margin * np.asarray(product.spread), dtype) * constant
        value = round_to(product.value, dtype) * constant
        return Exact(value, bound=np.abs(value), jump=np.abs(jump))
    value = product.value * constant
    return Exact(value, bound=np.abs(value), spread=product.spread * constant)
