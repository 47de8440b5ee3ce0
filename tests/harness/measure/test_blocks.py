from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.blocks import Pair, block_of, blocks_of, kind_of
from grok_conformance.harness.measure.noise import Fence, fence_of

LAMBDA = 6.6


def pair_of(*shape: int, spread: Array | float = 0.0) -> Pair:
    value = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
    exact = Exact(value, bound=np.array([2.0]), spread=spread)
    return Pair((0, "logits"), ("b", "t", "v"), exact, LAMBDA, value + 1, np.ones(1, bool), "float32")


def test_taps_in_one_block_lie_one_after_the_other_with_the_fences_of_their_own() -> None:
    pairs = [pair_of(1, 2, 3), pair_of(1, 1, 2, spread=5.0), pair_of(2, 1, 1, spread=np.full((2, 1, 1), 7.0))]
    block = block_of(pairs)
    assert block.starts == (0, 6, 8)
    assert block.exact.value.tolist() == [1, 2, 3, 4, 5, 6, 1, 2, 1, 2]
    assert np.broadcast_to(block.exact.spread, 10).tolist() == [0] * 6 + [5] * 2 + [7] * 2
    assert block.mask.all()
    own = [blocks_of(pair)(slice(0, pair.observed.size)).fence for pair in pairs]
    np.testing.assert_array_equal(block.fence.allowed, np.concatenate([fence.allowed for fence in own]))
    np.testing.assert_array_equal(block.fence.deviation, np.concatenate([fence.deviation for fence in own]))


def test_fences_that_are_known_are_kept() -> None:
    pair = pair_of(1, 2, 2)
    known = [replace(pair, fencing=Fence(np.array([x]), np.array([1.0]), None, LAMBDA)) for x in (3.0, 4.0)]
    block = block_of(known)
    assert block.fence.allowed.tolist() == [3] * 4 + [4] * 4
    assert block.fence.common is None


PAIR = pair_of(1, 2, 3)


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(replace(PAIR, recorded="bfloat16"), id="recorded"),
        pytest.param(replace(PAIR, fencing=7.0), id="factor"),
        pytest.param(replace(PAIR, fencing=fence_of(PAIR.exact, "float32", LAMBDA)), id="fence"),
        pytest.param(replace(PAIR, exact=replace(PAIR.exact, shared=True)), id="shared"),
        pytest.param(replace(PAIR, exact=replace(PAIR.exact, inherited=np.ones(3))), id="inherited"),
        pytest.param(replace(PAIR, exact=replace(PAIR.exact, argument=np.ones(3))), id="argument"),
    ],
)
def test_what_needs_other_arrays_or_another_fence_is_of_another_kind(other: Pair) -> None:
    assert kind_of(PAIR) == kind_of(pair_of(4, 5, 6))
    assert kind_of(other) != kind_of(PAIR)


@pytest.mark.parametrize("common", [None, np.array([0.5, 0.25, 0.125])])
def test_a_stretch_has_its_own_part_of_everything(common: Array | None) -> None:
    argument = np.array([[[7.0, 8.0, 9.0]]])
    exact = replace(pair_of(1, 1, 3).exact, argument=argument)
    fence = Fence(np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0, 6.0]), common, LAMBDA)
    block = blocks_of(replace(pair_of(1, 1, 3), exact=exact, fencing=fence))(slice(1, 3))
    assert block.exact.argument is not None
    assert block.exact.argument.tolist() == [8, 9]
    assert (block.fence.allowed.tolist(), block.fence.deviation.tolist()) == ([2, 3], [5, 6])
    assert (None if block.fence.common is None else block.fence.common.tolist()) == (
        None if common is None else [0.25, 0.125]
    )
    assert block.starts == (0,)
    assert blocks_of(pair_of(1, 1, 3))(slice(1, 3)).exact.argument is None


def test_what_elements_err_in_common_is_known_but_behind_hidden_ones() -> None:
    hidden = replace(PAIR, exact=replace(PAIR.exact, inherited=np.ones(3)))
    known = Fence(np.ones(1), np.ones(1), np.ones(1), LAMBDA)
    fences = [replace(PAIR, fencing=fence) for fence in (known, replace(known, common=None))]
    assert [pair.has_common for pair in (PAIR, hidden, *fences)] == [True, False, True, False]
    assert {kind_of(pair) for pair in fences} != {kind_of(fences[0])}
    one = replace(PAIR, exact=replace(PAIR.exact, inherited=np.ones(1)), fencing=known)
    assert kind_of(one) != kind_of(replace(one, exact=PAIR.exact))


def test_what_all_have_alike_stays_one_number_and_arguments_lie_in_a_row() -> None:
    argued = [
        replace(pair, exact=replace(pair.exact, bound=0.0, argument=pair.observed, shared=True))
        for pair in (pair_of(1, 1, 2, spread=5.0), pair_of(1, 1, 1, spread=5.0))
    ]
    block = block_of(argued)
    assert (block.exact.spread, block.exact.shared) == (5.0, True)
    assert block.exact.argument is not None
    assert block.exact.argument.tolist() == [2, 3, 2]
    assert block_of([PAIR, PAIR]).exact.argument is None
    other = block_of([pair_of(1, 1, 2, spread=5.0), pair_of(1, 1, 1, spread=6.0)])
    assert np.asarray(other.exact.spread).tolist() == [5, 5, 6]
