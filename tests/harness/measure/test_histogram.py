from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from grok_conformance.harness.measure.histogram import EDGES, MAX_TOKENS, histogram, worst_tokens


def test_an_error_at_its_fence_counts_as_within_and_nan_as_beyond_all() -> None:
    counts = histogram(np.array([0.0, 1.0, np.nextafter(1.0, 2), math.inf, math.nan]))
    within = EDGES.index(1.0)
    assert (counts[0], counts[within], counts[within + 1], counts[-1]) == (1, 1, 1, 2)


@given(arrays(np.float64, st.integers(0, 40), elements=st.floats(0, 1e6)))
def test_every_error_falls_into_one_bin_and_the_bins_beyond_1_hold_what_fails(ratio: np.ndarray) -> None:
    counts = histogram(ratio)
    assert sum(counts) == ratio.size
    assert sum(counts[EDGES.index(1.0) + 1 :]) == (ratio > 1).sum()


def test_the_worst_tokens_come_first_each_with_its_worst_element() -> None:
    ratio = np.zeros((2, 3, 4))
    ratio[1, 2, 3], ratio[1, 2, 0], ratio[0, 1, 2], ratio[0, 0, 0] = 9.0, 5.0, 20.0, 0.5
    exact = np.arange(24.0).reshape(ratio.shape)
    found = worst_tokens(ratio, exact + ratio, exact, np.ones_like(ratio), ("b", "t", "d"))
    assert [element.index for element in found] == [(0, 1, 2), (1, 2, 3)]
    assert (found[0].observed, found[0].exact, found[0].allowed) == (26.0, 6.0, 1.0)


def test_tokens_of_a_tap_with_heads_before_the_position_are_told_by_row_and_position() -> None:
    ratio = np.zeros((1, 2, 3, 4, 5))  # [b, g, r, t, s]
    ratio[0, 1, 2, 3, 4], ratio[0, 0, 0, 3, 0] = 3.0, 2.0
    (found,) = worst_tokens(ratio, ratio, ratio, ratio, ("b", "g", "r", "t", "s"))
    assert found.index == (0, 1, 2, 3, 4)


def test_no_more_tokens_are_kept_than_can_be_read() -> None:
    ratio = np.full((4, 4, 1), 2.0)
    assert len(worst_tokens(ratio, ratio, ratio, ratio, ("b", "t", "d"))) == MAX_TOKENS
