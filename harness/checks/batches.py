"""Noisy runs of one case, walked together as rows of one batch: what costs little on small arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from grok_conformance.harness.cases.case import copies
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.oracle import Plans

Shown = Callable[[int, str], Array | None]
"""Gives the value of a tap in a call as it was shown, None where it was not."""

MAX_BATCH_ELEMENTS = 2**20
"""Elements of the largest tap of noisy runs that are walked together; beyond them a larger batch saves nothing."""


def runs_at_once(values: Iterable[Array], plans: Plans, num_runs: int) -> int:
    """Return how many noisy runs are rows of one batch, by the values of one; one where a plan hangs on the batch."""
    if any(plan.hangs_on_the_batch for plan in plans.values()):
        return 1
    return max(1, min(num_runs, MAX_BATCH_ELEMENTS // max((x.size for x in values), default=1)))


def shown_to_all(shown: Shown, times: int) -> Shown:
    """Return what is shown of every tap to so many runs that are rows of one batch."""

    def to_all(call: int, tap: str) -> Array | None:
        value = shown(call, tap)
        return None if value is None else copies(value, times)

    return to_all
