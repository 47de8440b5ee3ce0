from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.checks.end_to_end import flips, honest_run, route_of
from grok_conformance.harness.checks.flips import FlipCount, chance_of_at_least, count_flips, flip_chances
from grok_conformance.harness.checks.undecided import TIED
from grok_conformance.harness.contract import Array
from grok_conformance.harness.measure.noise import FLIP_ALARM_RATE, MODEL_FACTOR
from tests.harness.honest_port import check, evidence_of, exact_weights, golden_case, golden_taps, honest_taps

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


def test_scores_are_tied_up_to_a_gap_and_several_ties_are_no_more_than_certain() -> None:
    gap = scores((0.5, TIED, 0.0, 0.0, 0.0), (0.5, 1.1 * TIED, 0.0, 0.0, 0.0))
    tied, apart = flip_chances(gap, np.full((1, 2), 1e-14), UNEQUAL)[0]
    assert tied == 1.0
    assert apart < 1e-6


@pytest.mark.parametrize(("chance", "passes"), [(FLIP_ALARM_RATE, True), (0.99 * FLIP_ALARM_RATE, False)])
def test_a_count_passes_down_to_the_alarm_rate(chance: float, *, passes: bool) -> None:
    assert FlipCount(9, 0.5, chance).passed == passes


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


def highest_first(case_id: str) -> dict[str, Array]:
    """Return the golden taps of a case with tied experts, the highest index chosen first."""
    taps = dict(golden_taps(case_id))
    backwards = taps["call0/layers.00.router.probabilities"][..., ::-1]
    order = backwards.shape[-1] - 1 - np.argsort(-backwards, axis=-1, kind="stable")
    return {**taps, "call0/layers.00.moe.expert_index": order[..., :K].astype(np.int32)}


@pytest.mark.parametrize(
    ("name", "taps", "passes"),
    [
        ("ties/prefill/exact_ties", ("*",), True),
        ("ties/prefill/tie_rule", ("*",), False),
        ("ties/prefill/tie_rule", ("logits", "*.expert_index"), True),
    ],
    ids=["in any case", "in the case that tests it", "where the scores are not shown"],
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ties_in_another_order_fail_only_in_the_case_that_is_marked_to_test_it(
    name: str, taps: tuple[str, ...], *, passes: bool, dtype: str
) -> None:
    case_id = f"{name}.{dtype}"
    found = check(case_id, highest_first(case_id), taps)
    (index,) = (one for one in found if one.operation == "moe.expert_index")
    assert index.note.endswith("ties not decided for the lowest index")
    assert index.passed == passes
