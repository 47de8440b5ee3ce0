from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.contract import Array
from grok_conformance.harness.measure.consecutive import Consecutive

SIZES = st.lists(st.integers(1, 5), min_size=1, max_size=6)


def taps_of(sizes: list[int]) -> Consecutive:
    return Consecutive.of(np.cumsum([0, *sizes[:-1]]), sum(sizes))


def parts(x: Array, sizes: list[int]) -> list[Array]:
    return np.split(x, np.cumsum(sizes)[:-1])


@given(SIZES, st.integers(0, 10**6))
def test_every_tap_is_reduced_counted_and_searched_by_itself(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    taps, x, chosen = taps_of(sizes), random.integers(-9, 9, sum(sizes)), random.random(sum(sizes)) < 0.3
    assert taps.reduce(np.maximum, x).tolist() == [part.max() for part in parts(x, sizes)]
    assert taps.count(chosen).tolist() == [np.count_nonzero(part) for part in parts(chosen, sizes)]
    found = zip(parts(chosen, sizes), taps.starts, strict=True)
    assert taps.first(chosen).tolist() == [part.argmax() + start if part.any() else -1 for part, start in found]
    numbers = np.repeat(np.arange(len(sizes)), sizes)
    assert np.broadcast_to(taps.each(np.arange(len(sizes))), x.shape).tolist() == numbers.tolist()


@given(SIZES, st.integers(0, 10**6))
def test_of_some_elements_a_tap_may_have_none(sizes: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    x, chosen = random.integers(1, 9, sum(sizes)), random.random(sum(sizes)) < 0.3
    some = taps_of(sizes).at(np.flatnonzero(chosen))
    sums = [part[picked].sum() for part, picked in zip(parts(x, sizes), parts(chosen, sizes), strict=True)]
    assert some.reduce(np.add, x[chosen]).tolist() == sums
    assert some.count(np.ones(some.size, bool)).tolist() == [picked.sum() for picked in parts(chosen, sizes)]


def test_nan_is_of_its_own_tap_alone() -> None:
    reduced = taps_of([2, 2]).reduce(np.maximum, np.array([1.0, np.nan, 2.0, 3.0]))
    assert np.isnan(reduced[0])
    assert reduced[1] == pytest.approx(3.0)
