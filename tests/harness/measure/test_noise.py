from __future__ import annotations

import json
import math
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.cases.suite import make_preset
from grok_conformance.harness.contract import DTYPES
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import (
    BULK_DEVIATIONS,
    FALSE_ALARM_RATE,
    FLIP_ALARM_RATE,
    MODEL_FACTOR,
    NUM_DEVIATING_RUNS,
    NUM_RUNS,
    NUM_SIMULATIONS,
    SAFETY,
    closed_by,
    computed,
    disturb,
    fence_of,
    honest_result,
    margin,
    tail_factor,
)

U, ROUNDOFF = UNIT_ROUNDOFF["float32"], "accumulation_roundoff"


def test_the_limits_are_those_that_were_validated_on_honest_runs() -> None:
    validated = json.loads((GOLDEN / "noise.json").read_text())["parameters"]
    assert {name: float(x) for name, x in validated.items() if isinstance(x, str | int) and name != ROUNDOFF} == {
        "false_alarm_rate": FALSE_ALARM_RATE,
        "bulk_deviations": BULK_DEVIATIONS,
        "end_to_end_safety": SAFETY,
        "num_runs": NUM_RUNS,
        "num_deviating_runs": NUM_DEVIATING_RUNS,
        "num_simulations": NUM_SIMULATIONS,
        "flip_alarm_rate": FLIP_ALARM_RATE,
        "flip_model_factor": MODEL_FACTOR,
    }
    assert float(validated[ROUNDOFF]) == U


@given(st.integers(1, 10**12))
def test_gaussian_noise_over_a_whole_run_leaves_its_fences_at_most_at_the_false_alarm_rate(num_elements: int) -> None:
    outside = math.erfc(tail_factor(num_elements) / math.sqrt(2))  # both tails
    assert num_elements * outside <= FALSE_ALARM_RATE


@given(st.integers(1, 10**12))
def test_the_tail_factor_is_less_than_one_deviation_wider_than_needed(num_elements: int) -> None:
    outside = math.erfc((tail_factor(num_elements) - 1) / math.sqrt(2))
    assert num_elements * outside > FALSE_ALARM_RATE


def test_the_margin_is_the_reach_of_a_float32_sum() -> None:
    assert margin(10**6) == pytest.approx(tail_factor(10**6) * U / math.sqrt(3))


@pytest.mark.parametrize(
    ("preset", "dtype", "expert"),
    [
        ("unequal", "bfloat16", "bfloat16"),
        ("float_weights", "bfloat16", "bfloat16"),
        ("float32_scales", "bfloat16", "float32"),
        ("unequal", "float32", "float32"),
    ],
)
def test_what_the_specification_records_in_which_dtype(preset: str, dtype: str, expert: str) -> None:
    drawn = make_preset(preset)
    dtypes = GROK_1.recorded_dtypes(replace(drawn.config, fprop_dtype=dtype), drawn.weights)
    assert dtypes["moe.expert_activation"] == dtypes["moe.expert_up"] == expert
    assert dtypes["logits"] == dtypes["kv.keys"] == dtypes["attention.weights"] == dtype
    assert dtypes["router.logits"] == dtypes["moe.expert_hidden"] == dtypes["attention.logits"] == "float32"
    assert dtypes["moe.expert_index"] == "int32"


@given(st.floats(-1e4, 1e4, width=32), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_a_fence_admits_one_rounding_of_any_value(x: float, dtype: str) -> None:
    fence = fence_of(Exact(np.array(x)), dtype, 7.0)
    assert abs(round_to(np.array(x), dtype) - x) <= fence.allowed


@given(st.floats(0.5, 1e4, width=32), st.sampled_from(["bfloat16", "float16"]))
def test_a_fence_keeps_out_the_value_after_the_next(x: float, dtype: str) -> None:
    exact = float(round_to(np.array(x), dtype))
    narrow = np.array(exact).astype(DTYPES[dtype])
    beyond = np.nextafter(np.nextafter(narrow, DTYPES[dtype].type(np.inf)), DTYPES[dtype].type(np.inf))
    fence = fence_of(Exact(np.array(exact)), dtype, 7.0)
    assert float(beyond) - exact > fence.allowed


def test_negative_zero_and_flushed_denormals_are_within_every_fence() -> None:
    for dtype in ("float32", "bfloat16", "float16"):
        smallest = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
        fence = fence_of(Exact(np.array([0.0, smallest / 2])), dtype, 7.0)
        assert (np.abs(np.array([-0.0, 0.0]) - [0.0, smallest / 2]) <= fence.allowed).all()


@pytest.mark.parametrize(("recorded", "u"), [("float32", U), ("float64", U), ("bfloat16", 2.0**-8)])
def test_a_fence_adds_up_rounding_bound_sums_and_jumps(recorded: str, u: float) -> None:
    exact = Exact(np.array([2.0]), bound=np.array([3.0]), spread=np.array([5.0]), jump=np.array([7 * U]))
    fence = fence_of(exact, recorded, 6.0)
    assert fence.allowed == pytest.approx(2 * u + 3 * U + 6 / math.sqrt(3) * 5 * U + 7 * U, rel=1e-12)
    assert fence.deviation == pytest.approx(math.sqrt((2 * u) ** 2 / 3 + ((9 + 25) / 3 + 49) * U**2), rel=1e-12)
    assert fence.factor == 6.0


def test_what_is_inherited_counts_in_deviations_and_nothing_is_known_of_what_it_has_in_common() -> None:
    fence = fence_of(Exact(np.array([2.0, 2.0]), inherited=np.array([0.0, 3 * U])), "float32", 6.0)
    assert fence.allowed == pytest.approx([2 * U, 2 * U + 6 * 3 * U])
    assert fence.deviation == pytest.approx([2 * U / math.sqrt(3), math.sqrt(4 / 3 + 9) * U])
    assert fence.common is None
    assert fence.factor == 6.0


def test_an_error_of_some_elements_widens_the_fences_of_these() -> None:
    fence = fence_of(Exact(np.array([2.0, 2.0]), spread=np.array([0.0, 5.0])), "float32", 6.0)
    assert fence.allowed == pytest.approx([2 * U, 2 * U + 6 / math.sqrt(3) * 5 * U])


@pytest.mark.parametrize(("shared", "common"), [(False, 3 * U), (True, 3 * U + 6 / math.sqrt(3) * 5 * U)])
def test_elements_have_the_bound_in_common_and_a_sum_only_where_a_row_shares_it(*, shared: bool, common: float) -> None:
    exact = Exact(np.array([2.0]), bound=np.array([3.0]), spread=np.array([5.0]), shared=shared)
    assert fence_of(exact, "float32", 6.0).common == pytest.approx(common)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_around_zero_the_smallest_normal_number_is_allowed_and_is_the_deviation(dtype: str) -> None:
    smallest = float(ml_dtypes.finfo(DTYPES[dtype]).smallest_normal)
    fence = fence_of(Exact(np.zeros(1)), dtype, 7.0)
    assert fence.allowed == smallest
    assert fence.deviation == smallest


def test_a_run_that_compares_nothing_has_the_fences_of_one_element() -> None:
    assert tail_factor(0) == tail_factor(1) == pytest.approx(math.sqrt(2 * math.log(2 / FALSE_ALARM_RATE)))


def noisy_operation(dtype: str, random: np.random.Generator) -> Exact:
    """Return an operation whose errors are about as large as one rounding to a dtype."""
    value, size = random.standard_normal(100_000), UNIT_ROUNDOFF[dtype] / U
    return Exact(value, bound=size * random.random(100_000), spread=size * random.random(100_000) * 9)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modelled_noise_stays_within_the_fence_and_has_its_deviation(dtype: str) -> None:
    random = np.random.default_rng(3)
    exact = noisy_operation(dtype, random)
    error = disturb(exact, dtype, random) - exact.value
    fence = fence_of(exact, dtype, tail_factor(100_000))
    assert (np.abs(error) <= fence.allowed).all()
    assert np.sqrt(np.mean(np.square(error / fence.deviation))) == pytest.approx(1, rel=0.02)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_what_an_honest_port_shows_is_of_its_dtype_and_within_the_fence(dtype: str) -> None:
    random = np.random.default_rng(3)
    exact = noisy_operation(dtype, random)
    shown = honest_result(exact, dtype, random)
    fence = fence_of(exact, dtype, tail_factor(100_000))
    assert np.array_equal(shown, round_to(shown, dtype))
    assert (np.abs(shown - exact.value) <= fence.allowed).all()


def test_an_honest_port_uses_half_of_the_bound_and_the_whole_spread() -> None:
    random = np.random.default_rng(3)
    bounded = honest_result(Exact(np.zeros(100_000), bound=1.0), "float32", random)
    assert 0.499 * U < np.abs(bounded).max() <= 0.5 * U
    summed = honest_result(Exact(np.zeros(100_000), spread=1.0), "float32", random)
    assert np.sqrt(np.mean(np.square(summed))) == pytest.approx(U / math.sqrt(3), rel=0.02)


def test_what_hidden_operations_pass_on_is_drawn_with_its_deviation() -> None:
    random = np.random.default_rng(3)
    inherited = random.random(100_000)
    error = computed(Exact(np.zeros(100_000), spread=1e-3, inherited=inherited), 1.0, random)
    assert np.sqrt(np.mean(np.square(error / inherited))) == pytest.approx(1, rel=0.02)
    assert np.mean(error / inherited) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("dtype", ["int32", "float32", "bfloat16", "float16"])
def test_an_honest_port_shows_a_copy_as_it_is(dtype: str) -> None:
    value = np.arange(8.0)
    assert np.array_equal(honest_result(Exact(value), dtype, np.random.default_rng(0)), value)


LAST = np.array([0.0, 1.0])


@pytest.mark.parametrize(
    "exact",
    [Exact(np.ones(2), bound=LAST), Exact(np.ones(2), spread=LAST), Exact(np.ones(2), inherited=LAST)],
    ids=["bound", "spread", "inherited"],
)
def test_noise_is_drawn_for_an_operation_that_has_an_error_of_any_kind_in_any_element(exact: Exact) -> None:
    first, second = computed(exact, 1.0, np.random.default_rng(0))
    assert first == 1.0
    assert second != 1.0


def test_nothing_is_drawn_for_a_copy() -> None:
    random = np.random.default_rng(0)
    assert computed(Exact(np.ones(2), bound=np.zeros(2)), 1.0, random).tolist() == [1.0, 1.0]
    assert random.random() == np.random.default_rng(0).random()


def test_an_honest_port_rounds_once_what_it_copies_into_a_narrower_cache() -> None:
    value = np.array([1 / 3, 1.0])
    assert np.array_equal(honest_result(Exact(value), "float16", np.random.default_rng(0)), round_to(value, "float16"))


def test_modelled_noise_is_drawn_anew_for_every_element_and_repeats_with_its_seed() -> None:
    exact = Exact(np.ones(50))
    first, second, other = (disturb(exact, "bfloat16", np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert len(set(first.tolist())) == 50
    assert np.array_equal(first, second)
    assert not np.array_equal(first, other)


def test_a_gap_may_be_closed_by_what_both_of_its_ends_may_stray() -> None:
    error = np.array([0.0, 1.0, 3.0])
    assert closed_by(error).tolist() == (SAFETY * error + SAFETY * error).tolist()
