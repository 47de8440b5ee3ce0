"""One function, `compare`, by every way in which a tap may differ; long because they share what is drawn and judged."""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.harness.cases.case import Call, Case
from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array, TapSpec, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import masks_of
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure import comparison
from grok_conformance.harness.measure.blocks import BLOCK_SIZE, Block, Pair, block_of
from grok_conformance.harness.measure.comparison import (
    Comparison,
    Kind,
    clean,
    compare,
    compare_all,
    compare_routing,
    num_distinct,
    num_tokens,
)

FACTOR = 7.0


TAP = "layers.01.attention.output"


def spec_of(tap: str) -> TapSpec:
    """Return the row of the contract for a tap."""
    return GROK_1.specs[split_tap(tap)[1]]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


def judge(observed: Array, value: Array, mask: Array | None = None, recorded: str = "bfloat16") -> Comparison:
    exact = Exact(value, spread=np.abs(value))
    everything = np.ones_like(value, bool)
    mask = everything if mask is None else mask
    return compare(Pair((0, TAP), spec_of(TAP).axes, exact, FACTOR, observed, mask, recorded))


def rounded(x: Array) -> Array:
    return x.astype(ml_dtypes.bfloat16).astype(np.float64)


def test_one_rounding_to_the_recorded_dtype_passes() -> None:
    value = draw(2, 6, 40)
    found = judge(rounded(value), value)
    assert found.passed
    assert found.num_elements == 480
    assert 0 < found.tail <= 1


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_fails_where_it_is_compared(bad: float) -> None:
    value = draw(2, 6, 40)
    observed = value.copy()
    observed[1, 2, 3] = bad
    found = judge(observed, value)
    assert not found.passed
    assert found.index == (1, 2, 3)
    assert found.problem == "1 of 480 values are not finite"
    assert not found.is_finite
    assert judge(value, value).is_finite


@pytest.mark.parametrize("anything", [math.nan, math.inf, -1e30])
def test_a_value_that_is_not_compared_may_be_anything_and_changes_no_figure(anything: float) -> None:
    value = draw(2, 6, 40)
    mask = np.ones((2, 6, 1), bool)
    mask[1, 4:] = False
    observed = rounded(value)
    spoilt = observed.copy()
    spoilt[1, 4:] = anything
    assert judge(spoilt, value, mask) == judge(observed, value, mask)
    assert judge(spoilt, value, mask).num_elements == 400


def test_one_wrong_element_fails_and_is_pointed_at() -> None:
    value = draw(2, 6, 40)
    observed = rounded(value)
    observed[1, 5, 39] += 0.5
    found = judge(observed, value)
    assert not found.passed
    assert found.index == (1, 5, 39)
    assert found.observed == observed[1, 5, 39]
    assert found.exact == value[1, 5, 39]
    assert found.tail == pytest.approx(0.5 / found.allowed, rel=0.1)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(7, 14))
def test_a_flipped_exponent_bit_of_a_normal_bf16_number_fails(seed: int, bit: int) -> None:
    value = rounded(draw(2, 6, 40, seed=seed))
    place = tuple(np.random.default_rng(seed).integers((2, 6, 40)))
    observed = value.astype(ml_dtypes.bfloat16)
    observed.view(np.uint16)[place] ^= np.uint16(1 << bit)
    with np.errstate(invalid="ignore"):
        assert not judge(observed.astype(np.float64), value).passed


def test_an_error_far_within_every_fence_but_in_all_elements_fails_in_bulk() -> None:
    value = draw(2, 6, 400)
    found = judge(value * (1 + 0.9 * 2.0**-8), value)
    assert found.tail < 1 < found.bulk
    assert not found.passed


def test_equal_values_err_alike_so_that_many_of_them_are_no_bulk() -> None:
    few = draw(1, 1, 4)
    alike = np.broadcast_to(few, (1, 65, 4))
    assert judge(alike * (1 + 0.83 * 2.0**-8), alike).passed  # one token, 65 times
    apart = draw(1, 65, 4)
    assert not judge(apart * (1 + 0.83 * 2.0**-8), apart).passed


@pytest.mark.parametrize(
    ("value", "by_token", "expected"),
    [
        ([[1.0, 2.0], [3.0, 4.0]], None, 4),
        ([[1.0, -1.0], [1.0, 1.001]], None, 1),  # of one magnitude, once rounded to bfloat16
        ([[1.0, 1.0], [1.0, 9.0]], None, 1),  # (3 + 1)² / (3² + 1²), rounded down
        ([[1.0, 2.0], [3.0, 4.0]], ("t", "d"), 2),
        ([[1.0, 2.0], [1.0, 2.0]], ("t", "d"), 1),
        ([[1.0, 2.0], [2.0, 1.0]], ("t", "d"), 2),
    ],
)
def test_equal_errors_count_as_one(value: list[list[float]], by_token: tuple[str, ...] | None, expected: int) -> None:
    tap = np.array(value)
    assert num_distinct(tap, np.ones_like(tap, bool), "bfloat16", by_token) == expected


def test_what_is_not_compared_is_no_distinct_value() -> None:
    tap = np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    mask = np.array([[True, True], [True, True], [False, False]])
    assert num_distinct(tap, mask, "bfloat16", None) == 4
    assert num_distinct(tap, mask, "bfloat16", ("t", "d")) == 2
    partly = np.array([[True, True], [False, True], [True, False]])
    assert num_distinct(tap, partly, "bfloat16", ("t", "d")) == 3
    assert num_distinct(np.zeros((2, 2)), np.ones((2, 2), bool), "bfloat16", None) == 0
    assert num_distinct(tap.reshape(3, 1, 2), mask.reshape(3, 1, 2), "bfloat16", ("t", "q", "h")) == 2


def test_values_beyond_their_fences_are_counted() -> None:
    value = draw(1, 4, 10)
    observed = value.copy()
    observed[0, 1, :3] += np.array([1.0, -2.0, 1.3 * 2.0**-8 * value[0, 1, 2]])
    found = judge(observed, value)
    assert found.num_beyond == 3
    assert judge(rounded(value), value).num_beyond == 0
    assert Comparison(0, TAP, 4, problem="shape [1], expected [2]").num_beyond == 0


def several() -> list[Pair]:
    """Return pairs of two kinds, one without an element, and one with an error beyond its fence."""
    sizes, everything = (3, 40, 0, 5, 7, 40), np.ones((1, 1, 1), bool)
    pairs = []
    for call, size in enumerate(sizes):
        value = draw(1, 1, size, seed=call)
        observed = rounded(value) + (call == 3)
        exact = Exact(value, spread=np.abs(value), shared=call % 2 == 0)
        pairs.append(Pair((call, TAP), spec_of(TAP).axes, exact, FACTOR, observed, everything, "bfloat16"))
    return pairs


def test_many_pairs_compare_as_each_does_alone_in_the_order_given(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [compare(pair) for pair in several()]
    assert [one.call for one in expected] == list(range(6))
    assert [one.passed for one in expected] == [call != 3 for call in range(6)]
    assert expected[2] == Comparison(2, TAP, 0)
    for block_size in (BLOCK_SIZE, 10):
        monkeypatch.setattr(comparison, "BLOCK_SIZE", block_size)
        assert [found for _, found in compare_all(several())] == expected


def test_pairs_are_held_back_until_they_are_worth_a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    batches: list[int] = []

    def noted(pairs: list[Pair]) -> list[Comparison]:
        batches.append(len(pairs))
        return [Comparison(*pair.key, 0) for pair in pairs]

    monkeypatch.setattr(comparison, "_compared", noted)
    monkeypatch.setattr(comparison, "BATCH_SIZE", 43)
    list(compare_all(several()))  # of 3, 40, 0, 5, 7 and 40 elements
    assert batches == [4, 2, 0]
    looked_at: list[int] = []
    monkeypatch.undo()

    def looked(pairs: list[Pair]) -> Block:
        looked_at.append(len(pairs))
        return block_of(pairs)

    monkeypatch.setattr(comparison, "block_of", looked)
    list(compare_all(several()))
    assert looked_at == [2, 3]


def test_exact_zeros_do_not_dilute_the_bulk() -> None:
    value = draw(2, 6, 400)
    sparse = np.concatenate([value, np.zeros((2, 6, 4000))], -1)
    observed = sparse * (1 + 0.9 * 2.0**-8)
    assert judge(observed, sparse).bulk == pytest.approx(judge(observed[..., :400], value).bulk)


def test_a_masked_weight_must_be_exactly_zero() -> None:
    value = np.array([[[0.5, 0.5, 0.0]]])
    assert judge(np.array([[[0.5, 0.5, -0.0]]]), value).passed
    assert judge(np.array([[[0.5, 0.5, 1e-39]]]), value).passed  # a denormal, which others flush to zero
    assert not judge(np.array([[[0.5, 0.5, 1e-30]]]), value).passed


@pytest.mark.parametrize("size", [1e-39, 1e-60, 1e-82])
def test_any_number_of_values_below_every_normal_number_may_be_flushed_to_zero(size: float) -> None:
    value = draw(2, 6, 400)
    value[..., :200] *= size
    argument = np.where(np.abs(value) < SMALLEST_NORMAL["float32"], -256.0, 1.0)
    observed = np.where(argument < 0, 0.0, rounded(value))
    exact = Exact(value, spread=np.abs(value), argument=argument)
    everything = np.ones_like(value, bool)
    found = compare(Pair((0, TAP), spec_of(TAP).axes, exact, FACTOR, observed, everything, "bfloat16"))
    assert found.passed
    assert "gain near -256" not in {each.name for each in found.systematic}


def test_a_tap_with_nothing_to_compare_compares_nothing() -> None:
    found = judge(np.full((2, 3), math.nan), np.ones((2, 3)), np.zeros((2, 3), bool))
    assert found.passed
    assert found.num_elements == 0


def test_excess_counts_what_goes_beyond_one_rounding_in_float32_units() -> None:
    value = np.full((1, 1, 4), 1 + 2.0**-8)
    assert judge(rounded(value), value).excess == 0
    off = judge(value * (1 + 2.0**-8) + 20 * 2.0**-24, value)
    assert off.excess == pytest.approx(10, rel=0.05)  # 20 u over |value| + spread, about 2


def test_an_error_in_common_is_found_though_no_element_shows_it() -> None:
    value = rounded(draw(2, 6, 400))
    found = judge(value * (1 + 2.0**-11), value)
    assert found.tail < 0.2
    assert found.bulk < 0.3
    gain, _ = found.systematic
    assert gain.name == "gain"
    assert gain.coefficient == pytest.approx(2.0**-11)
    assert not found.passed


def test_the_worst_tokens_beyond_their_fences_are_told_and_no_others() -> None:
    value = draw(2, 6, 40)
    mask = np.ones((2, 6, 1), bool)
    mask[1, 4:] = False
    observed = rounded(value)
    observed[0, 2, 7] += 0.5
    observed[1, 3, 1] -= 1.5
    found = judge(observed, value, mask)
    assert [token.index for token in found.tokens] == [(1, 3, 1), (0, 2, 7)]
    assert found.tokens[0].observed == observed[1, 3, 1]
    assert found.tokens[0].exact == value[1, 3, 1]


@pytest.mark.parametrize(("reach", "num_tokens"), [(1.0, 0), (1.5, 1)])
def test_tokens_and_a_note_are_told_beyond_the_fence_and_not_yet_at_it(reach: float, num_tokens: int) -> None:
    observed = np.full((1, 1, 40), reach * SMALLEST_NORMAL["float32"])  # all that is allowed around 0
    found = judge(observed, np.zeros((1, 1, 40)), recorded="float32")
    assert found.tail == reach
    assert len(found.tokens) == num_tokens
    assert bool(found.note) == bool(num_tokens)
    assert found.passed == (num_tokens == 0)


def test_float32_values_beyond_their_fences_that_were_rounded_are_said_to_be() -> None:
    value = draw(2, 6, 40).astype(np.float32).astype(np.float64)
    note = "the values lie on the grid of bfloat16: rounded, though float32"
    assert judge(rounded(value), value, recorded="float32").note == note
    assert judge(value * (1 + 2.0**-9), value, recorded="float32").note == ""  # as far off, and not rounded
    assert judge(rounded(value) * 2, value, recorded="bfloat16").note == ""  # as bfloat16 should
    assert judge(rounded(value), rounded(value), recorded="float32").note == ""  # right, whatever it lies on


def test_a_comparison_of_nothing_errs_in_nothing() -> None:
    empty = Comparison(0, TAP, 0)
    assert (empty.tail, empty.bulk, empty.excess, empty.ratio) == (0, 0, 0, 0)
    assert not empty.undecided


@pytest.mark.parametrize(
    ("tap", "layer", "operation"),
    [(TAP, 1, "attention.output"), ("layers.00.output", 0, "output"), ("logits", None, "logits")],
)
def test_a_tap_names_its_layer_and_its_operation(tap: str, layer: int | None, operation: str) -> None:
    assert Comparison(0, tap, 0).layer == layer
    assert Comparison(0, tap, 0).operation == operation


@pytest.mark.parametrize(("tail", "waived", "passes"), [(1.0, "", True), (1.5, "", False), (1.5, "known", True)])
def test_a_tap_passes_up_to_its_fence_or_as_known(tail: float, waived: str, *, passes: bool) -> None:
    assert Comparison(0, TAP, 1, tail=tail, waived=waived).passed == passes


def test_every_operation_of_every_call_has_a_mask_with_the_axes_of_its_tap() -> None:
    lengths = np.array([3, 1], np.int32)
    tokens = np.where(np.arange(3) < lengths[:, None], 7, UNEQUAL.pad_token).astype(np.int32)
    step = Call("decode", np.array([[7], [7]], np.int32), np.array([1, 1], np.int32))
    calls = (Call("prefill", tokens, lengths), step)
    some = Case(id="unequal/decode/some", preset="unequal", fprop_dtype="bfloat16", why="", origin="", calls=calls)
    masks = masks_of(some, UNEQUAL, GROK_1.taps)
    assert set(masks) == {(call, operation) for call in (0, 1) for operation in SPECS}
    assert masks[0, "embedding"][..., 0].tolist() == [[True, True, True], [True, False, False]]
    assert masks[1, "kv.keys"][:, :5, 0, 0].tolist() == [[True] * 4 + [False], [True] * 2 + [False] * 3]


def test_cleaning_leaves_zero_where_nothing_is_compared() -> None:
    x = np.array([[1.5, math.nan], [math.inf, 2.5]], np.float32)
    assert clean(x, np.array([[True, False], [False, True]])).tolist() == [[1.5, 0], [0, 2.5]]


PROBABILITIES = np.array([[[0.1, 0.4, 0.3, 0.15, 0.05], [0.2, 0.2, 0.2, 0.25, 0.15]]])
"""[b, t, e]; the second token has three experts level in second place."""


def route(*chosen: list[int], slack: float = 0.0, mask: tuple[bool, bool] = (True, True)) -> Comparison:
    return compare_routing(
        0,
        "layers.00.moe.expert_index",
        PROBABILITIES,
        np.array([chosen], np.float64),
        np.array([mask])[..., None],
        slack,
    )


def test_the_most_probable_experts_in_order_pass() -> None:
    found = route([1, 2], [3, 0])
    assert found.passed
    assert found.note == ""
    assert found.num_elements == 4


@pytest.mark.parametrize("second", [1, 2])
def test_exact_ties_may_be_decided_either_way_and_are_noted(second: int) -> None:
    found = route([1, 2], [3, second])
    assert found.passed
    assert found.note == "1 tie not decided for the lowest index"


@pytest.mark.parametrize(
    ("first", "problem"),
    [
        ([1, 1], "an expert is chosen twice for one token"),
        ([1, 5], "expert outside 0..4"),
        ([-1, 2], "expert outside 0..4"),
        ([2, 1], "experts are not in order of probability"),
        ([1, 3], "a more probable expert was left out"),
        ([2, 3], "a more probable expert was left out"),
    ],
)
def test_a_wrong_choice_of_experts_fails_and_says_why(first: list[int], problem: str) -> None:
    found = route(first, [3, 0])
    assert not found.passed
    assert found.problem == problem
    assert found.index == (0, 0)
    assert route(first, [3, 0], mask=(False, True)).passed


def test_scores_known_to_within_an_error_admit_the_choices_within_it() -> None:
    assert not route([1, 3], [3, 0], slack=0.07).passed
    assert route([1, 3], [3, 0], slack=0.08).passed
    assert not route([1, 4], [3, 0], slack=0.08).passed
    assert not route([2, 1], [3, 0], slack=0.04).passed
    assert route([2, 1], [3, 0], slack=0.06).passed


def test_all_experts_chosen_leaves_nobody_out() -> None:
    index = np.array([[[1, 2, 3, 0, 4], [3, 0, 1, 2, 4]]], np.float64)
    assert compare_routing(0, "layers.00.moe.expert_index", PROBABILITIES, index, np.ones((1, 2, 1), bool), 0.0).passed


@pytest.mark.parametrize(
    ("chosen", "problem"),
    [
        ([1, 2, 3], ""),
        ([2, 1, 3], "experts are not in order of probability"),
        ([1, 3, 2], "experts are not in order of probability"),
        ([1, 2, 4], "a more probable expert was left out"),
        ([1, 2, 2], "an expert is chosen twice for one token"),
        ([1, 5, 2], "expert outside 0..4"),
    ],
)
def test_any_of_three_chosen_experts_may_be_the_wrong_one(chosen: list[int], problem: str) -> None:
    tokens = np.repeat(PROBABILITIES[:, :1], 3, axis=1)
    index = np.array([[[1, 2, 3], chosen, [1, 2, 3]]], np.float64)
    found = compare_routing(0, "layers.00.moe.expert_index", tokens, index, np.ones((1, 3, 1), bool), 0.0)
    assert found.problem == problem
    assert found.index == ((0, 1) if problem else ())


def test_of_a_token_with_a_wrong_choice_the_best_expert_left_out_is_told_with_its_score() -> None:
    tokens = np.array([[[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]]])
    index = np.array([[[0, 1], [1, 0]]], np.float64)
    found = compare_routing(0, "layers.00.moe.expert_index", tokens, index, np.ones((1, 2, 1), bool), 0.0)
    assert found.index == (0, 1)
    assert found.note == "expert 3 has the score 0.4; chosen were 1 (0.2), 0 (0.1)"


def test_ties_are_counted_by_tokens() -> None:
    tokens = np.repeat(PROBABILITIES[:, 1:], 4, axis=1)
    index = np.array([[[3, 0, 1], [3, 1, 0], [3, 1, 2], [3, 0, 2]]], np.float64)
    found = compare_routing(0, "layers.00.moe.expert_index", tokens, index, np.ones((1, 4, 1), bool), 0.0)
    assert found.passed
    assert found.note == "3 ties not decided for the lowest index"


@pytest.mark.parametrize(
    ("axes", "shape", "compared", "expected"),
    [
        (("b", "t", "d"), (2, 3, 4), [(0, 1, 2), (0, 1, 3), (1, 2, 0)], 2),
        (("b", "s", "g"), (2, 5, 4), [(0, 4, 0), (0, 4, 1), (0, 3, 1), (1, 0, 0), (1, 1, 0)], 4),  # a slot of a cache
        (("b", "t", "s"), (2, 3, 5), [(0, 1, 0), (0, 1, 4), (0, 2, 4)], 2),  # the slots that a token sees
        (("b", "q", "t", "s"), (1, 2, 3, 5), [(0, 0, 1, 0), (0, 1, 1, 4), (0, 1, 2, 4)], 2),
    ],
)
def test_tokens_of_which_anything_is_compared_are_counted_and_slots_of_a_cache(
    axes: tuple[str, ...], shape: tuple[int, ...], compared: list[tuple[int, ...]], expected: int
) -> None:
    mask = np.zeros(shape, bool)
    for place in compared:
        mask[place] = True
    assert num_tokens(mask, axes) == expected


@pytest.mark.parametrize(
    ("problem", "kind"),
    [
        ("missing: declared but not returned", Kind.MISSING),
        ("shape [2], expected [b] = [3]", Kind.SHAPE),
        ("dtype int8, expected float32", Kind.OTHER),
        ("", Kind.OTHER),
    ],
)
def test_a_problem_is_of_the_kind_with_whose_word_it_begins(problem: str, kind: Kind) -> None:
    assert Comparison(0, "logits", 0, problem=problem).kind is kind
