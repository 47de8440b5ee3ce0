"""Plans that hang on how many tokens an expert has: a loop over experts has kernels for few tokens, and for many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact


def in_experts(plan: RoundingPlan, index: Array, apply: Callable[[RoundingPlan], Exact]) -> Exact:
    """Return an operation's result [b, t, c, ..] where every expert follows the part of a plan that holds in it.

    `index` [b, t, c] are the chosen experts, `apply` gives the result of all experts by one plan.
    """
    chosen = index.astype(np.int64)
    _, place, counts = np.unique(chosen, return_inverse=True, return_counts=True)
    within = 0 if plan.within is None else plan.within.limit
    small, large = (apply(RoundingPlan(choices)) for choices in (plan.choices, plan.beyond))
    few = (counts[place] <= within).reshape(*chosen.shape, *[1] * (small.value.ndim - chosen.ndim))
    few = np.broadcast_to(few, small.value.shape)

    def merged(inside: Array | float, outside: Array | float) -> Array:
        return np.where(few, inside, outside)

    return Exact(
        merged(small.value, large.value),
        bound=merged(small.bound, large.bound),
        spread=merged(small.spread, large.spread),
        jump=merged(small.jump, large.jump),
        shared=small.shared or large.shared,
    )
