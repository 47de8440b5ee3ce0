from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure import scan
from grok_conformance.harness.measure.blocks import BLOCK_SIZE, Block, Fencing, Pair, block_of, blocks_of, kind_of
from grok_conformance.harness.measure.histogram import EDGES
from grok_conformance.harness.measure.noise import Fence, fence_of
from grok_conformance.harness.measure.scan import Findings, find, find_each, find_in
from grok_conformance.harness.measure.systematic import Systematic, conclude

LAMBDA = 6.6
Tap = tuple[Array, Exact, Fence, Array]


def drawn(seed: int, num: int, recorded: str) -> Tap:
    random = np.random.default_rng(seed)
    value = random.standard_normal(num) * random.integers(0, 4, num)
    exact = Exact(value, bound=np.abs(value), argument=value)
    off = (1 + random.choice([0.0, 1e-3])) * (np.arange(num) >= random.choice([0, num // 2]))
    observed = np.where(off, round_to(value * off, recorded), value)  # nothing errs before the first that is off
    return observed, exact, fence_of(exact, recorded, LAMBDA), random.random(num) < random.choice([0.5, 2.0])


def pair_of(observed: Array, exact: Exact, fencing: Fencing, mask: Array, recorded: str) -> Pair:
    return Pair((0, "logits"), ("b", "t", "v"), exact, fencing, observed, mask, recorded)


def found(tap: Tap, recorded: str, block_size: int) -> tuple[Findings, tuple[Systematic, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BLOCK_SIZE", block_size)
        (one,), directions = find_in(pair_of(*tap, recorded))
        return one, conclude(directions, 1, LAMBDA)[0]


def plainly(tap: Tap, recorded: str) -> Findings:
    """Return what is found in a tap of finite values as it is defined, element by element."""
    observed, exact, fence, mask = tap
    bound, spread, jump = (np.broadcast_to(x, observed.shape) for x in (exact.bound, exact.spread, exact.jump))
    tail, worst, squares, num_scored, excess, ratios = 0.0, 0, 0.0, 0, 0.0, []
    for i in np.flatnonzero(mask):
        error, size, allowed = abs(observed[i] - exact.value[i]), abs(exact.value[i]), fence.allowed[i]
        ratio = error / allowed if allowed else (math.inf if error else 0.0)
        ratios.append(ratio)
        if ratio > tail:
            tail, worst = ratio, int(i)
        if size >= SMALLEST_NORMAL["float32"] and fence.deviation[i]:
            num_scored += 1
            squares += (error / fence.deviation[i]) ** 2
        unit = UNIT_ROUNDOFF["float32"] * (size + bound[i] + spread[i])
        if unit:
            excess = max(excess, (error - UNIT_ROUNDOFF[recorded] * size - jump[i]) / unit)
    edges = (-1.0, *EDGES, math.inf)
    counts = tuple(sum(low < x <= high for x in ratios) for low, high in itertools.pairwise(edges))
    return Findings(
        len(ratios), tail=tail, worst=worst, squares=squares, num_scored=num_scored, excess=excess, counts=counts
    )


@given(st.integers(0, 10**6), st.sampled_from(["bfloat16", "float32"]), st.sampled_from([0.0, 0.2, 0.7, 1.0]))
def test_findings_are_what_their_definition_says(seed: int, recorded: str, share: float) -> None:
    random = np.random.default_rng(seed)
    num = int(random.integers(1, 150))

    def some() -> Array | float:
        return random.random(num) * random.integers(0, 2, num) if random.random() < 0.7 else 0.0

    value = random.standard_normal(num) * random.integers(0, 3, num)
    unit = UNIT_ROUNDOFF[recorded]
    exact = Exact(value, bound=some(), spread=some(), jump=0.1 * unit * np.asarray(some()))
    fence = Fence(unit * random.integers(0, 3, num), unit * random.integers(0, 3, num), None, LAMBDA)
    error = unit * random.standard_normal(num) * random.choice([0.01, 1.0, 300.0]) * (random.random(num) < share)
    tap = (value + error, exact, fence, random.random(num) < random.choice([0.5, 1.0]))
    expected = plainly(tap, recorded)
    for block_size in (num, 40):
        seen, _ = found(tap, recorded, block_size)
        assert (seen.num_elements, seen.num_scored, seen.counts) == (
            expected.num_elements,
            expected.num_scored,
            expected.counts,
        )
        assert seen.num_bad == 0
        for name in ("squares", "excess"):
            assert getattr(seen, name) == pytest.approx(getattr(expected, name), rel=1e-6, abs=1e-9)
        if expected.num_elements:
            assert seen.tail == expected.tail
        if expected.tail:
            assert seen.worst == expected.worst


def test_findings_of_two_stretches_add_up() -> None:
    first = Findings(10, 1, 3, 0.5, 4, 2.0, 8, 0.25, tuple(range(len(EDGES) + 1)))
    second = Findings(20, 2, 13, 0.5, 14, 3.0, 9, 0.75, (1,) * (len(EDGES) + 1))
    together = first + second
    assert together == second + first
    assert together == Findings(30, 3, 3, 0.5, 4, 5.0, 17, 0.75, tuple(range(1, len(EDGES) + 2)))
    assert replace(first, num_bad=0) + second == replace(together, num_bad=2, first_bad=13)


def test_an_argument_goes_with_its_elements() -> None:
    value = np.linspace(1, 2, 100, endpoint=False)
    tap = Exact(value, bound=value, argument=np.where(np.arange(100) < 50, 1.0, -8.0))
    observed = np.where(np.arange(100) < 50, value, 1.5 * value)
    _, systematic = found((observed, tap, fence_of(tap, "float32", LAMBDA), np.ones(100, bool)), "float32", 40)
    assert {one.name for one in systematic} == {"gain", "gain near -8", "bias"}


def test_a_bulk_is_the_root_mean_square_less_six_of_its_own_deviations() -> None:
    assert Findings(squares=18.0, num_scored=2).bulk() == pytest.approx(3 / (1 + 6 / 2))
    assert Findings(squares=8.0, num_scored=8).bulk() == pytest.approx(1 / (1 + 6 / 4))
    assert Findings().bulk() == 0.0


@given(st.integers(0, 10**6), st.integers(1, 300), st.integers(60, 300), st.sampled_from(["bfloat16", "float32"]))
def test_blocks_find_what_the_whole_tap_shows(seed: int, num: int, block_size: int, recorded: str) -> None:
    tap = drawn(seed, num, recorded)
    same(found(tap, recorded, block_size), found(tap, recorded, num))


def same(found: tuple[Findings, tuple[Systematic, ...]], expected: tuple[Findings, tuple[Systematic, ...]]) -> None:
    """Assert that the same is found of a tap, sums in another order apart."""
    ours, theirs = ({one.name: one for one in systematic} for _, systematic in (found, expected))
    assert replace(found[0], squares=0.0, excess=0.0) == replace(expected[0], squares=0.0, excess=0.0)
    assert found[0].squares == pytest.approx(expected[0].squares, rel=1e-12)
    assert found[0].excess == pytest.approx(expected[0].excess, rel=1e-9)
    assert set(ours) == set(theirs)
    for name, one in theirs.items():
        assert ours[name].coefficient == pytest.approx(one.coefficient, rel=1e-9, abs=1e-15)
        for figure in ("standard_error", "floor", "information", "allowed"):
            assert getattr(ours[name], figure) == pytest.approx(getattr(one, figure), rel=1e-9)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 90)), min_size=1, max_size=8), st.data())
def test_taps_that_are_looked_at_together_show_what_each_shows_alone(
    taps: list[tuple[int, int]], data: st.DataObject
) -> None:
    recorded = data.draw(st.sampled_from(["bfloat16", "float32"]))
    known, argued, common = (data.draw(st.booleans()) for _ in range(3))
    pairs = []
    for seed, num in taps:
        observed, exact, fence, mask = drawn(seed, num, recorded)
        observed[seed % num] = data.draw(st.sampled_from([observed[seed % num], observed[seed % num] + 1, math.nan]))
        exact = exact if argued else replace(exact, argument=None)
        exact = exact if common else replace(exact, inherited=np.abs(exact.value) * 2.0**-9)
        fence = fence if common else replace(fence, common=None)
        pairs.append(pair_of(observed, exact, fence if known else LAMBDA, mask * data.draw(st.booleans()), recorded))
    assert len({kind_of(pair) for pair in pairs}) == 1
    findings, directions = find_each(block_of(pairs), recorded)
    together = conclude(directions, len(pairs), LAMBDA)
    for pair, one, systematic in zip(pairs, findings, together, strict=True):
        alone, sums = find_in(pair)
        same((one, systematic), (alone[0], conclude(sums, 1, LAMBDA)[0]))


@given(st.integers(0, 10**6), st.integers(1, 50), st.data())
def test_the_first_value_that_is_not_finite_is_told(seed: int, block_size: int, data: st.DataObject) -> None:
    observed, exact, fence, _ = drawn(seed, 200, "float32")
    places = data.draw(st.sets(st.integers(0, 199), min_size=1, max_size=5))
    observed[list(places)] = np.nan
    parts, _ = found((observed, exact, fence, np.ones(200, bool)), "float32", block_size)
    assert (parts.num_bad, parts.first_bad, parts.num_elements) == (len(places), min(places), 200)


@given(st.integers(0, 10**6), st.sampled_from(["bfloat16", "float32"]))
def test_a_fence_made_block_by_block_is_the_fence_of_the_whole(seed: int, recorded: str) -> None:
    random = np.random.default_rng(seed)
    spread, jump, inherited = (random.random((2, 3, 4)) if random.random() < 0.6 else 0.0 for _ in range(3))
    value, bound = random.random((2, 3, 4)), random.random(4)
    exact = Exact(value, bound=bound, spread=spread, jump=jump, inherited=inherited, shared=bool(seed % 2))
    whole = fence_of(exact, recorded, LAMBDA)
    mask = np.ones((2, 3, 4), bool)
    for at in (slice(0, 24), slice(5, 17), slice(23, 24)):
        ours, theirs = (
            blocks_of(pair_of(exact.value, exact, made, mask, recorded))(at).fence for made in (LAMBDA, whole)
        )
        np.testing.assert_array_equal(ours.allowed, theirs.allowed)
        np.testing.assert_array_equal(ours.deviation, theirs.deviation)
        assert (ours.common is None) == (theirs.common is None)
        if ours.common is not None:
            np.testing.assert_array_equal(ours.common, theirs.common)


def test_nothing_compared_is_nothing_found() -> None:
    observed, exact, fence, mask = drawn(1, 100, "float32")
    assert found((observed, exact, fence, np.zeros_like(mask)), "float32", 7)[0].num_elements == 0


def test_the_least_normal_number_is_scored_and_what_is_smaller_is_not() -> None:
    least = SMALLEST_NORMAL["float32"]
    value = np.array([least, np.nextafter(least, 0), 0.0, 1.0])
    exact, everything = Exact(value), np.ones(4, bool)
    (found,), _ = find_in(pair_of(value, exact, LAMBDA, everything, "float32"))
    assert found.num_scored == 2


def test_temporaries_do_not_grow_with_the_tap() -> None:
    sizes = []

    def block(stretch: slice) -> Block:
        value = np.ones(stretch.stop - stretch.start)
        sizes.append(value.size)
        exact = Exact(value)
        return Block(value, exact, fence_of(exact, "bfloat16", LAMBDA), np.ones(value.size, bool))

    assert find(10 * BLOCK_SIZE + 3, block, "bfloat16")[0].num_elements == 10 * BLOCK_SIZE + 3
    assert max(sizes) == BLOCK_SIZE


def test_where_noise_is_common_to_a_token_the_bulk_counts_tokens() -> None:
    found = Findings(squares=18.0, num_scored=2)
    assert found.bulk(1) < found.bulk()
    assert found.bulk(50) == found.bulk()
    assert found.bulk(0) == found.bulk(1)
