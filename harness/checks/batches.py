"""Noisy runs of one case, walked together as rows of one batch: what costs little on small arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.oracle import Plans

MAX_BATCH_ELEMENTS = 2**20
"""Elements of the largest tap of noisy runs that are walked together; beyond them a larger batch saves nothing."""


def runs_at_once(values: Iterable[Array], plans: Plans, num_runs: int) -> int:
    """Return how many noisy runs are rows of one batch, by the values of one; one where a plan hangs on the batch."""
    if any(plan.hangs_on_the_batch for plan in plans.values()):
        return 1
    return max(1, min(num_runs, MAX_BATCH_ELEMENTS // max((x.size for x in values), default=1)))


def copies(x: Array | None, times: int) -> Array | None:
    """Return so many copies of what was shown of a batch, one behind the other; None of nothing."""
    return x if x is None or times == 1 else np.concatenate([x] * times)
