from __future__ import annotations

import math

import pytest

from tests.fault_detection.probe_ways import Run, counts, fails, is_inconclusive, page, runs


def test_an_approximated_tanh_of_hidden_experts_is_a_way_in_the_probe_that_makes_most_of_it() -> None:
    (run,) = runs("probe_moe/*", "gelu_tanh_approx")
    assert not fails(run)
    assert not is_inconclusive(run)


@pytest.mark.parametrize(("ratio", "failed"), [(0.5, False), (1.0, False), (1.01, True), (math.nan, True)])
def test_a_run_beyond_its_fence_fails_and_one_that_is_not_a_number_too(ratio: float, *, failed: bool) -> None:
    assert fails(Run("way", "case", ratio, 1)) == failed


def test_a_run_without_a_logit_that_is_compared_is_inconclusive() -> None:
    found = [Run("way", "case", 0.0, 0), Run("other", "case", 2.0, 5)]
    assert [is_inconclusive(run) for run in found] == [True, False]
    assert counts(found).startswith("2 honest ways in 1 cases by logits alone in bfloat16: 1 of 2 runs failed")
    assert "| case | 2 | 1 | 1 | other, 2.00 |" in page(found)
