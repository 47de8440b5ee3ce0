from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.operations.experts import gelu
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, by_operation
from grok_conformance.harness.measure import scan
from grok_conformance.harness.measure.blocks import Pair
from grok_conformance.harness.measure.comparison import Comparison, compare
from grok_conformance.harness.measure.noise import Fence, fence_of
from grok_conformance.harness.measure.scan import find_in
from grok_conformance.harness.measure.systematic import (
    NUM_CLUSTERS,
    NUM_OCTAVES,
    OCTAVES,
    Systematic,
    cluster_of,
    conclude,
    octave,
    octaves_of,
    pooled,
)

LAMBDA = 6.6
U = UNIT_ROUNDOFF["bfloat16"]
NUM = 4000


def drawn(seed: int, num: int = NUM) -> Array:
    return np.random.default_rng(seed).standard_normal(num)


def scores(exact: Exact, observed: Array, recorded: str) -> dict[str, Systematic]:
    return {one.name: one for one in systematic(exact, observed, fence_of(exact, recorded, LAMBDA), recorded)}


def systematic(exact: Exact, observed: Array, fence: Fence, recorded: str) -> tuple[Systematic, ...]:
    """Return every systematic statistic of a tap, as a comparison has them."""
    everything = np.ones(observed.shape, bool)
    _, directions = find_in(Pair((0, "logits"), ("b", "t", "v"), exact, fence, observed, everything, recorded))
    return conclude(directions, 1, fence.factor)[0]


def plainly(exact: Exact, observed: Array, fence: Fence, mask: Array, recorded: str) -> dict[str, Systematic]:
    """Return every systematic statistic as it is defined, element by element."""
    clusters, bins = cluster_of(exact.value, recorded), np.zeros(exact.value.size, int)
    if exact.argument is not None:
        bins = octaves_of(exact.argument)
    assert fence.common is not None
    terms: dict[tuple[str, int], list[tuple[int, float, float, float]]] = {}
    for i in range(exact.value.size):
        value, deviation, common = exact.value[i], fence.deviation[i], fence.common[i]
        if mask[i] and value != 0 and deviation > 0:
            error = (observed[i] - value) / deviation
            for name, along, places in (("gain", value / deviation, {-1, bins[i]}), ("bias", 1.0, {-1})):
                for place in places if exact.argument is not None else {-1}:
                    row = (int(clusters[i]), error * along, along**2, abs(along) * common / deviation)
                    terms.setdefault((name, int(place)), []).append(row)
    found = {}
    for (name, place), rows in terms.items():
        information = math.fsum(row[2] for row in rows)
        by_cluster: dict[int, float] = {}
        for cluster, term, *_ in rows:
            by_cluster[cluster] = by_cluster.get(cluster, 0.0) + term
        if any(by_cluster.values()):
            full = name if place < 0 else f"{name} {octave(place)}"
            found[full] = Systematic(
                name=full,
                coefficient=math.fsum(by_cluster.values()) / information,
                standard_error=math.hypot(*by_cluster.values()) / information,
                floor=math.fsum(row[3] for row in rows) / information,
                information=information,
                allowed=LAMBDA,
            )
    return found


@given(st.integers(0, 10**6), st.booleans(), st.booleans(), st.sampled_from(["bfloat16", "float32"]))
def test_every_statistic_is_what_its_definition_says(seed: int, whole: bool, argued: bool, recorded: str) -> None:  # noqa: FBT001 - drawn
    random = np.random.default_rng(seed)
    num = int(random.integers(1, 120))
    value = random.standard_normal(num) * random.integers(0, 3, num)
    exact = Exact(value, argument=100.0 ** random.standard_normal(num) * random.choice([-1, 1], num) * argued)
    exact = exact if argued else replace(exact, argument=None)
    deviation = np.abs(value) * random.integers(0, 3, num) * U + 2.0**-20 * random.integers(0, 2, num)
    common = deviation * random.integers(0, 2, num) * random.integers(0, 2)
    fence = Fence(2 * deviation, deviation, common, LAMBDA)
    mask = random.random(num) < random.choice([0.5, 1.0])
    observed = round_to(value + deviation * random.standard_normal(num) * random.choice([0.01, 1.0]), recorded)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "BLOCK_SIZE", num if whole else 40)
        _, directions = find_in(Pair((0, "logits"), ("b", "t", "v"), exact, fence, observed, mask, recorded))
    found = {one.name: one for one in conclude(directions, 1, LAMBDA)[0]}
    expected = plainly(exact, observed, fence, mask, recorded)
    negligible = {name for name, one in expected.items() if abs(one.coefficient) < 1e-15}  # sums that cancel
    assert set(found) | negligible == set(expected)
    for name in set(expected) - negligible:
        for each in ("coefficient", "standard_error", "floor", "information", "allowed"):
            assert getattr(found[name], each) == pytest.approx(getattr(expected[name], each), rel=1e-9, abs=1e-18)


def compared(exact: Exact, observed: Array, recorded: str, tap: str = "layers.00.attention.query") -> Comparison:
    shape = (1, -1, *(1 for _ in SPECS[split_tap(tap)[1]].axes[2:]))
    argument = None if exact.argument is None else exact.argument.reshape(shape)
    shaped = replace(exact, value=exact.value.reshape(shape), argument=argument)
    everything = np.ones(shaped.value.shape, bool)
    axes = SPECS[split_tap(tap)[1]].axes
    return compare(Pair((0, tap), axes, shaped, LAMBDA, observed.reshape(shape), everything, recorded))


@given(st.integers(0, 10**6), st.sampled_from(["bfloat16", "float16", "float32"]))
def test_rounding_alone_is_never_systematic(seed: int, recorded: str) -> None:
    value = drawn(seed)
    found = scores(Exact(value, argument=value), round_to(value, recorded), recorded)
    assert {"gain", "bias", "gain near 1", "gain near -1"} <= set(found)
    assert all(one.ratio < 1 for one in found.values())


def test_the_score_of_rounding_has_unit_deviation() -> None:
    drawn_scores = [
        one.score
        for seed in range(200)
        for one in scores(Exact(drawn(seed, 300)), round_to(drawn(seed, 300), "bfloat16"), "bfloat16").values()
    ]
    assert np.std(drawn_scores) == pytest.approx(1, abs=0.15)
    assert abs(np.mean(drawn_scores)) < 0.2


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("gain", lambda x: x * (1 + 0.3 * U)),
        ("bias", lambda x: x + 0.3 * U * np.abs(x)),
        ("gain near 1", lambda x: np.where((x >= 1) & (x < 2), x * (1 + 0.5 * U), x)),
    ],
)
def test_a_third_of_a_rounding_in_common_is_found_where_tail_and_bulk_see_nothing(name: str, wrong: object) -> None:
    assert callable(wrong)
    value = drawn(1)
    comparison = compared(Exact(value, argument=value), round_to(wrong(value), "bfloat16"), "bfloat16")
    assert comparison.bulk < 1
    worst = max(comparison.systematic, key=lambda one: one.ratio)
    assert worst.name == name
    assert worst.ratio > 1
    assert comparison.ratio == pytest.approx(max(worst.ratio, comparison.tail))
    assert not comparison.passed


def test_gelu_by_erf_is_found_in_bf16_by_the_activations_at_which_it_differs() -> None:
    activation, up = 2 * drawn(2), drawn(3)
    erf = np.array([0.5 * x * (1 + math.erf(x / math.sqrt(2))) for x in activation])
    exact = Exact(gelu(activation) * up, bound=4 * np.abs(activation * up), argument=activation)
    honest, wrong = (scores(exact, round_to(x, "bfloat16"), "bfloat16") for x in (exact.value, erf * up))
    assert max(one.ratio for one in honest.values()) < 1
    assert max(one.ratio for one in wrong.values()) > 1


def test_values_within_one_rounding_of_each_other_are_one_measurement() -> None:
    value = 1 / 7 * (1 + 1e-4 * drawn(4))
    found = scores(Exact(value), round_to(value, "bfloat16"), "bfloat16")
    assert abs(found["gain"].coefficient) > 1e-3  # all of them err by the same 0.3 %
    assert abs(found["gain"].score) <= math.sqrt(3)


@given(st.integers(0, 10**6), st.sampled_from(["bfloat16", "float16", "float32"]))
def test_values_that_round_alike_are_in_one_cluster_and_others_are_spread_over_all(seed: int, recorded: str) -> None:
    value = drawn(seed, 2 * NUM_CLUSTERS)
    cluster = cluster_of(value, recorded)
    assert np.array_equal(cluster_of(round_to(value, recorded), recorded), cluster)
    rounded, first = np.unique(round_to(value, recorded), return_index=True)
    others = min(rounded.size, NUM_CLUSTERS)
    assert 0.6 * others < np.unique(cluster[first]).size  # 1 - 1/e of them where they fall by chance
    assert (cluster >= 0).all()
    assert (cluster < NUM_CLUSTERS).all()


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1))
def test_an_octave_holds_the_arguments_of_one_sign_from_its_name_to_twice_that(arguments: list[float]) -> None:
    lowest, highest = OCTAVES
    for argument, number in zip(arguments, octaves_of(np.array(arguments)), strict=True):
        low = float(octave(int(number)).removeprefix("near "))
        assert math.copysign(1, low) == math.copysign(1, argument)
        assert abs(low) <= abs(argument) or abs(low) == 2.0**lowest
        assert abs(argument) < 2 * abs(low) or abs(low) == 2.0**highest


def test_a_whole_number_is_in_the_octave_of_its_value() -> None:
    assert [octave(int(number)) for number in octaves_of(np.array([1, -3, 129]))] == ["near 1", "near -2", "near 128"]


def test_arguments_beyond_the_octaves_join_the_outermost() -> None:
    names = [octave(int(number)) for number in octaves_of(np.array([1e30, -1e30, 0.0, -0.0, 1e-30]))]
    assert names == ["near 4096", "near -4096", "near 0.0625", "near -0.0625", "near 0.0625"]
    assert octaves_of(np.array([-1e30])) == NUM_OCTAVES - 1


def test_float32_values_that_differ_by_roundings_err_alike() -> None:
    """As those of equal tokens: 65 of each of 5 values are 5 independent errors, not 325."""
    value = (drawn(9, 5)[:, None] * (1 + np.arange(65) * 2.0**-24)).ravel()
    unit = Fence(np.ones(value.size), np.ones(value.size), np.zeros(value.size), LAMBDA)
    (bias,) = (one for one in systematic(Exact(value), value + 1, unit, "float32") if one.name == "bias")
    assert bias.score < 2 * math.sqrt(5) < math.sqrt(325)


def test_a_score_near_the_limit_is_hardly_less_for_what_all_clusters_err_in_common() -> None:
    value = np.exp(drawn(8, 2**18) / 10)
    unit = Fence(np.ones(value.size), np.ones(value.size), np.zeros(value.size), LAMBDA)
    seven = 7 / math.sqrt(value.size)  # of a standard error, where the noise is 1
    both = [
        np.mean([found["bias"].score for found in ({one.name: one for one in each} for each in scored)])
        for common in (0.0, seven)
        for scored in [
            [systematic(Exact(value), value + common + drawn(seed, value.size), unit, "float32") for seed in range(20)]
        ]
    ]
    assert both[1] - both[0] == pytest.approx(7 / math.sqrt(1 + 49 / NUM_CLUSTERS), rel=0.005)
    all_alike = {one.name: one for one in systematic(Exact(value), value + 1, unit, "float32")}
    assert 0.9 * math.sqrt(NUM_CLUSTERS) < all_alike["bias"].score <= math.sqrt(NUM_CLUSTERS)
    assert math.sqrt(NUM_CLUSTERS) == 64


def test_what_a_library_function_may_err_everywhere_does_not_count() -> None:
    value = drawn(5)
    u = UNIT_ROUNDOFF["float32"]
    exact = Exact(value, bound=2 * np.abs(value))
    within, beyond = (scores(exact, value * (1 + units * u), "float32")["gain"] for units in (1.9, 2.5))
    assert within.floor == pytest.approx(2 * u)
    assert within.coefficient == pytest.approx(1.9 * u)
    assert within.score == 0
    assert beyond.ratio > 1


def test_a_sum_that_a_whole_row_shares_does_not_count() -> None:
    value, u = drawn(6), UNIT_ROUNDOFF["float32"]
    alone = Exact(value, spread=np.abs(value))
    assert scores(alone, value * (1 + u), "float32")["gain"].ratio > 1
    assert scores(replace(alone, shared=True), value * (1 + u), "float32")["gain"].ratio == 0


def test_nothing_is_said_of_taps_behind_hidden_ones() -> None:
    value = drawn(7)
    fence = replace(fence_of(Exact(value), "bfloat16", LAMBDA), common=None)
    assert systematic(Exact(value), value * (1 + U), fence, "bfloat16") == ()


def test_pooling_finds_what_no_single_tap_shows() -> None:
    gain, num = 0.1, 300
    found = [
        scores(Exact(drawn(seed, num)), round_to(drawn(seed, num) * (1 + gain * U), "bfloat16"), "bfloat16")["gain"]
        for seed in range(100)
    ]
    (together,) = pooled(found)
    assert max(one.ratio for one in found) < 1
    assert together.ratio > 1
    assert together.coefficient == pytest.approx(gain * U, rel=0.3)
    assert together.standard_error == pytest.approx(found[0].standard_error / 10, rel=0.2)


def test_pooled_figures_are_weighted_by_information() -> None:
    light = Systematic("gain", coefficient=1.0, standard_error=2.0, floor=4.0, information=1.0, allowed=LAMBDA)
    heavy = Systematic("gain", coefficient=5.0, standard_error=2.0, floor=8.0, information=3.0, allowed=LAMBDA)
    (together,) = pooled([light, heavy])
    assert (together.coefficient, together.floor, together.information) == (4.0, 7.0, 4.0)
    assert together.standard_error == pytest.approx(math.hypot(2.0, 6.0) / 4)


def honest_and_off(gain: float) -> list[CaseVerdict]:
    return [
        CaseVerdict(
            case=f"unequal/prefill/{seed}",
            status="pass",
            comparisons=(
                compared(
                    Exact(drawn(seed, 300)), round_to(drawn(seed, 300) * (1 + gain * U), "bfloat16"), "bfloat16", tap
                ),
            ),
        )
        for seed in range(100)
        for tap in [f"layers.{seed % 2:02d}.attention.output"]
    ]


@pytest.mark.parametrize(("gain", "status"), [(0.0, "pass"), (0.07, "fail")])
def test_an_operation_fails_for_what_it_errs_in_common_over_all_cases(gain: float, status: str) -> None:
    cases = honest_and_off(gain)
    assert all(comparison.systematic[0].ratio <= 1 for case in cases for comparison in case.comparisons)
    rows = by_operation(cases, {case.case: "bfloat16" for case in cases}, {})
    assert [row.status for row in rows] == [status]
    verdict = CandidateVerdict(name="p", version="1", level="caches", cases=(*cases,), operations=rows, seconds=0.0)
    assert verdict.status == status


def test_the_same_tokens_in_another_case_are_no_further_measurement() -> None:
    cases = [
        CaseVerdict(
            case=f"unequal/prefill/{name}",
            status="pass",
            comparisons=(compared(Exact(drawn(1)), round_to(drawn(1), "bfloat16"), "bfloat16", "embedding"),),
        )
        for name in range(5)
    ]
    (row,) = by_operation(cases, {case.case: "bfloat16" for case in cases}, {})
    assert row.systematic == cases[0].comparisons[0].systematic
