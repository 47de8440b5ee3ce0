"""Noisy runs as rows of one batch."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.checks.batches import MAX_BATCH_ELEMENTS, runs_at_once, shown_to_all
from grok_conformance.harness.checks.by_size import DECODING
from grok_conformance.harness.graph.rounding import Calls, RoundingPlan

FLAT = RoundingPlan({"sums": "4 as flat ring"})


@pytest.mark.parametrize(("size", "expected"), [(8, 16), (MAX_BATCH_ELEMENTS // 4, 4), (2 * MAX_BATCH_ELEMENTS, 1)])
def test_as_many_runs_go_together_as_the_largest_tap_allows(size: int, expected: int) -> None:
    assert runs_at_once([np.zeros(1), np.zeros(size, np.int8)], {}, 16) == expected


@pytest.mark.parametrize("plan", [FLAT, RoundingPlan({}, Calls("bt", 8), {"sums": "3 at once"})])
def test_runs_stay_apart_where_a_plan_hangs_on_the_size_of_the_batch(plan: RoundingPlan) -> None:
    assert runs_at_once([np.zeros(8)], {"attention.output": plan}, 16) == 1
    for other in (RoundingPlan({"sums": "4 as ring"}), RoundingPlan({}, DECODING, {"sums": "3 at once"})):
        assert runs_at_once([np.zeros(8)], {"attention.output": other}, 16) == 16
    assert runs_at_once([], {}, 16) == 16


def test_what_is_shown_to_all_runs_lies_one_behind_the_other() -> None:
    shown = shown_to_all(lambda _call, tap: np.arange(2) if tap == "shown" else None, 2)
    assert np.array_equal(np.arange(2).tolist() * 2, shown(0, "shown"))  # type: ignore[arg-type]
    assert shown(0, "hidden") is None
