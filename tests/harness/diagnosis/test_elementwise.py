from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.diagnosis.elementwise import beside, coarser, fitted, on_grid, shortest, told_as
from grok_conformance.harness.diagnosis.likeness import likeness_of
from grok_conformance.harness.graph.operations.experts import gelu_argument
from tests.harness.diagnosis.faulty_port import PREFILL, Change, taps_with, trial_with


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: x / 2, "the right values times 0.5"),
        (lambda x: -x, "the right values with the opposite sign"),
        (lambda x: 0 * x, "zero"),
        (lambda x: np.clip(x, -1, 1), "the right values cut off at ±1"),
        (lambda x: x + 0.25, "the right values plus 0.25"),
        (lambda x: on_grid(x, "bfloat16"), "the right values rounded to bfloat16 once more"),
        (
            lambda x: on_grid(x * np.random.default_rng(0).uniform(1 - 2.0**-7, 1 + 2.0**-7, x.shape), "bfloat16"),
            "numbers of bfloat16: rounded to it more than once on the way",
        ),
        (lambda x: np.sin(3 * x), "another function of the right values, each by itself"),
    ],
)
def test_a_change_of_every_value_is_told(change: Change, words: str) -> None:
    assert likeness_of(taps_with(PREFILL, "moe.norm", change)).words.split(" (or ")[0] == words


def test_another_function_of_one_factor_is_told() -> None:
    """Gelu by a rational tanh: gated values are another function of the activation, times the other factor."""
    taps = taps_with(PREFILL, "moe.expert_hidden", lambda x: x)
    made = {}
    for one in taps:
        activation, up = (one.values[name] for name in one.inputs)
        x = np.clip(gelu_argument(activation), -3, 3)
        made[one.call, one.layer] = 0.5 * activation * (1 + x * (27 + x * x) / (27 + 9 * x * x)) * up
    given = iter([x for _, x in sorted(made.items())])
    found = likeness_of(taps_with(PREFILL, "moe.expert_hidden", lambda _: next(given)))
    assert found.words == "another function of the argument, each by itself"


def test_a_factor_of_its_own_for_every_head_is_told() -> None:
    factors = np.linspace(0.5, 1.5, 12)[:, None]
    found = likeness_of(taps_with(PREFILL, "attention.query", lambda x: x * factors))
    assert found.words == "the right values times a factor of its own for every query head, 0.5 to 1.5"


def test_sums_that_are_normalised_otherwise_are_told() -> None:
    factors = np.random.default_rng(0).uniform(0.5, 1.5, (2, 3, 4, 6, 1))  # one for every sum
    found = likeness_of(taps_with(PREFILL, "attention.weights", lambda x: x * factors))
    assert "normalised otherwise along the slots" in found.words


def test_the_shortest_number_within_its_error_is_told() -> None:
    assert (shortest(0.50003, 1e-4), shortest(0.50003, 1e-6), shortest(1.7, 1e-9)) == (0.5, 0.50003, 1.7)


def test_a_fit_has_a_standard_error_and_nothing_is_fitted_to_zeros() -> None:
    trial = trial_with(PREFILL, "moe.norm", lambda x: 2 * x)
    factor, error = fitted(trial, trial.shown.exact, trial.shown.observed) or (0.0, 0.0)
    assert abs(factor - 2) < 4 * error < 1e-6
    assert fitted(trial, np.zeros_like(trial.shown.exact), trial.shown.observed) is None


def test_grids() -> None:
    assert coarser(2.0**-24) == ["bfloat16", "float16", "TF32"]
    assert coarser(2.0**-8) == []
    np.testing.assert_array_equal(on_grid(np.array([1 + 2.0**-11, 1 + 3 * 2.0**-11]), "TF32"), [1, 1 + 2.0**-9])


def test_taps_of_other_layers_are_told_with_their_layer_and_found_beside_another_tap() -> None:
    first, second = taps_with(PREFILL, "moe.norm", lambda x: x)
    assert told_as("layers.00.output", second) == "output of layer 0"
    assert told_as("layers.01.output", second) == "output"
    assert beside(second, first, "layers.00.attention.norm") == "layers.01.attention.norm"
    assert beside(second, first, "embedding") == "embedding"
