from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.contract import Array
from harness.local import check_case
from harness.noise import FLIP_ALARM_RATE, MODEL_FACTOR
from harness.routing import FlipCount, chance_of_at_least, count_flips, flip_chances
from harness.suite import UNEQUAL
from harness.whole import flips, honest_run, route_of
from tests.harness.honest_port import NUM_ELEMENTS, evidence_of, exact_weights, golden_case, honest_taps

K = UNEQUAL.model.num_selected_experts
NEAR_TIES = "realistic/prefill/near_ties.bfloat16"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.integers(0, 8))
def test_the_chance_of_a_count_is_that_of_all_outcomes_with_as_many(chances: list[float], count: int) -> None:
    total = 0.0
    for outcome in np.ndindex(*(2,) * len(chances)):
        if sum(outcome) >= count:
            total += math.prod(p if happened else 1 - p for p, happened in zip(chances, outcome, strict=True))
    assert chance_of_at_least(count, np.array(chances)) == pytest.approx(total, abs=1e-12)


def test_equal_chances_give_the_binomial_tail() -> None:
    expected = sum(math.comb(30, k) * 0.1**k * 0.9 ** (30 - k) for k in range(9, 31))
    assert chance_of_at_least(9, np.full(30, 0.1)) == pytest.approx(expected)


def scores(*rows: tuple[float, ...]) -> Array:
    return np.array([rows], np.float64)


def test_a_token_far_from_a_tie_never_flips_and_one_at_a_tie_always_may() -> None:
    probabilities = scores((0.5, 0.3, 0.1, 0.06, 0.04), (0.4, 0.2, 0.2, 0.1, 0.1))
    chances = flip_chances(probabilities, np.full((1, 2), 1e-3), UNEQUAL)
    assert chances.tolist() == [[0.0, 1.0]]


def test_the_chance_of_one_close_pair_is_a_gaussian_tail() -> None:
    gap, error = 0.004, 1e-3
    probabilities = scores((0.5, 0.2 + gap, 0.2, 0.05, 0.046))
    (chance,) = flip_chances(probabilities, np.full((1, 1), error), UNEQUAL)[0]
    z = gap / (MODEL_FACTOR * math.sqrt(2) * error)
    assert chance == pytest.approx(math.erfc(z / math.sqrt(2)) / 2)


def test_simulated_flips_are_about_as_many_as_the_chances_say_and_no_more() -> None:
    random = np.random.default_rng(1)
    probabilities = random.dirichlet(np.ones(5), (1, 4000))
    error = np.full((1, 4000), 0.01)
    noisy = probabilities + MODEL_FACTOR * error[..., None] * random.standard_normal(probabilities.shape)
    chosen = (np.sort(np.argsort(-x, -1)[..., :K], -1) for x in (probabilities, noisy))
    first, second = chosen
    observed = int((first != second).any(-1).sum())
    expected = float(flip_chances(probabilities, error, UNEQUAL).sum())
    assert 0.8 * expected <= observed <= 1.05 * expected  # the chances of pairs are added, which counts some twice


def test_honest_flips_are_counted_and_pass_and_too_many_within_their_margins_fail() -> None:
    preset, case = golden_case(NEAR_TIES)
    evidence = evidence_of(NEAR_TIES, honest_taps(NEAR_TIES, 3))
    honest = honest_run(
        preset, case, route_of(evidence), exact_weights(preset.name, case.fprop_dtype), evidence.recorded
    )
    found = flips(evidence, honest, evidence.config)
    assert all(flip.excused for flip in found)
    assert count_flips(len(found), evidence, honest).passed
    everyone = count_flips(33, evidence, honest)  # 11 tokens in 3 layers
    assert 0 < everyone.expected < 11
    assert everyone.chance < FLIP_ALARM_RATE
    assert not everyone.passed


def test_a_case_without_routes_has_no_flips_to_count() -> None:
    evidence = evidence_of(NEAR_TIES, honest_taps(NEAR_TIES, 3), ("logits",))
    preset, case = golden_case(NEAR_TIES)
    honest = honest_run(preset, case, {}, exact_weights(preset.name, case.fprop_dtype), evidence.recorded)
    assert count_flips(0, evidence, honest) == FlipCount(0, 0.0, 1.0)


@pytest.mark.parametrize(("tie_rule", "passes"), [(False, True), (True, False)])
def test_ties_in_another_order_fail_only_where_the_case_is_marked_to_test_it(*, tie_rule: bool, passes: bool) -> None:
    case_id = "ties/prefill/exact_ties.float32"
    preset, case = golden_case(case_id)
    config = preset.config

    def highest_first(call: int, tap: str) -> Array | None:
        if not tap.endswith("moe.expert_index"):
            return None
        shown = honest_taps(case_id, 5)[f"call{call}/{tap.replace('moe.expert_index', 'router.probabilities')}"]
        last = config.model.num_experts - 1
        return (last - np.argsort(-shown[..., ::-1], axis=-1, kind="stable"))[..., :K].astype(np.float64)

    evidence = evidence_of(case_id, honest_taps(case_id, 5, shown=highest_first))
    marked = replace(case, tie_rule=tie_rule)
    found = check_case(preset, marked, evidence, num_elements=NUM_ELEMENTS)
    (index,) = (one for one in found if one.operation == "moe.expert_index")
    assert index.note.endswith("ties not decided for the lowest index")
    assert all(one.passed for one in found if one is not index)
    assert index.passed == passes
