"""The token embedding and the output logits, which share one table (SPEC §4.2, §4.8)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import round_to, rounded
from grok_conformance.harness.graph.products import product
from grok_conformance.harness.graph.rounding import Point, RoundingPlan, rounding_point
from grok_conformance.harness.graph.row import Exact, Scope

ROWS = rounding_point("rows", "rounded", "row of the table not rounded")
MULTIPLIER = rounding_point("multiplier", "rounded", "multiplier not rounded")
HEAD = rounding_point("table", "rounded", "table kept in float32")
LOGITS_MULTIPLIER = Point(
    "multiplier",
    {
        "rounded": "",
        "kept": "multiplier not rounded",
        "table": "multiplier folded into the float32 table, and rounded with it",
        "narrow table": "multiplier folded into the rounded table, and rounded with it",
        "hidden": "hidden state scaled before the product, in the compute dtype",
        "narrow hidden": "hidden state scaled before the product by the rounded multiplier, in the compute dtype",
    },
)
LOGITS_PRODUCT = rounding_point("product", "rounded", "product not rounded before it is scaled")


def constant(scale: float, scope: Scope, choice: str) -> float:
    """Return a multiplier as the program holds it: rounded to the compute dtype under jit (78.5), else to float32."""
    dtype = scope.config.fprop_dtype if choice in ("rounded", "narrow hidden") else "float32"
    return float(round_to(np.asarray(scale), dtype))


def embedding(table: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Look the tokens up in the table float64 [v, d] and multiply by embedding_multiplier_scale (SPEC §4.2)."""
    rows = table[scope.tokens]  # [b, t, d]
    if scope.rounds and plan.at(ROWS) == "rounded":
        rows = round_to(rows, scope.config.fprop_dtype)
    value = rows * constant(scope.config.embedding_multiplier_scale, scope, plan.at(MULTIPLIER))
    return Exact(value, bound=np.abs(value))


def logits(hidden: Array, table: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply the hidden state [b, t, d] by the table [v, d] and by output_multiplier_scale (SPEC §4.8)."""
    dtype, choice = scope.config.fprop_dtype, plan.at(LOGITS_MULTIPLIER)
    factor = constant(scope.config.output_multiplier_scale, scope, choice)
    if choice in ("table", "narrow table"):
        table = round_to(table, dtype) if choice == "narrow table" else table
        table, factor = round_to(table * factor, dtype), 1.0
    elif choice in ("hidden", "narrow hidden"):
        hidden, factor = round_to(hidden * factor, dtype), 1.0
    if not scope.rounds or (plan.at(HEAD) == "rounded" and choice not in ("table", "narrow table")):
        table = round_to(table, dtype)
    made = product(hidden, table.T, scope, plan)  # [b, t, v]
    if scope.rounds and plan.at(LOGITS_PRODUCT) == "rounded" and choice in ("rounded", "kept"):
        made = rounded(made, dtype, scope.margin)
    value = made.value * factor
    bound = np.abs(value) + factor * np.asarray(made.bound)
    return Exact(value, bound=bound, spread=made.spread * factor, jump=made.jump * factor)
