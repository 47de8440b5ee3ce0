"""The router: logits, probabilities, the chosen experts and their gates (SPEC §4.6)."""

from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import contract, softmax
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope


def router_logits(x: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [b, t, d] by w [d, e] in float32 (SPEC §4.6)."""
    del scope, plan
    return contract(x, w)


def router_probabilities(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Softmax of logits [b, t, e] over all experts in float32 (SPEC §4.6)."""
    del scope, plan
    return softmax(logits, np.ones_like(logits, bool))


def expert_index(probabilities: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return the most probable experts of probabilities [b, t, e], ties to the lowest index: [b, t, c] (SPEC §4.6)."""
    del plan
    order = np.argsort(-probabilities, axis=-1, kind="stable")
    value = order[..., : scope.config.model.num_selected_experts].astype(np.float64)
    return Exact(value)


def expert_gate(probabilities: Array, index: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Return the probabilities [b, t, e] of the chosen experts index [b, t, c], not renormalised (SPEC §4.6)."""
    del scope, plan
    value = np.take_along_axis(probabilities, index.astype(np.int64), -1)
    return Exact(value, bound=np.abs(value))
