from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.diagnosis import likeness
from grok_conformance.harness.diagnosis.likeness import Likeness, affordable, likeness_of, spread_out, worst_of
from grok_conformance.harness.diagnosis.shown_tap import failing, shown_taps
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, taps_with, toy_with


def test_nothing_is_said_of_an_honest_port_or_of_noise() -> None:
    random = np.random.default_rng(0)
    assert likeness_of(taps_with(PREFILL, "moe.norm", lambda x: x)) == Likeness()
    assert likeness_of(taps_with(PREFILL, "moe.norm", lambda x: x + random.standard_normal(x.shape))) == Likeness()
    assert likeness_of([]) == Likeness()


def test_nothing_is_said_of_a_single_value_or_of_what_differs_from_layer_to_layer() -> None:
    def one_value(x: np.ndarray) -> np.ndarray:
        x = x.copy()
        x[0, 0, 0] *= 2
        return x

    assert likeness_of(taps_with(PREFILL, "moe.norm", one_value)) == Likeness()
    taps = taps_with(PREFILL, "moe.norm", lambda x: 2 * x, layers="0")
    others = taps_with(PREFILL, "moe.norm", lambda x: np.roll(x, 1, -1), layers="1")
    assert likeness_of([*taps, *others]) == Likeness()


def test_of_a_large_operation_only_the_values_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    taps = taps_with(PREFILL, "attention.query", lambda x: 2 * x)
    assert affordable(taps[0])
    monkeypatch.setattr(likeness, "LARGEST_WEIGHT", 10)
    assert not affordable(taps[0])
    assert likeness_of(taps).words == "the right values times 2"


def test_a_layout_that_differs_is_told_from_a_value_that_does() -> None:
    assert likeness_of(taps_with(PREFILL, "attention.query", lambda x: x[..., ::-1])).relabels
    assert not likeness_of(taps_with(PREFILL, "attention.query", lambda x: 2 * x)).relabels


def test_taps_of_other_layers_and_calls_come_before_more_of_the_same() -> None:
    taps = failing(taps_with(DECODE, "moe.norm", lambda x: 2 * x))
    assert {(one.layer, one.call > 0) for one in spread_out(taps)} == {(0, False), (0, True), (1, False), (1, True)}
    assert worst_of([]) == []


def test_a_toy_is_likened_by_the_same_table() -> None:
    found = likeness_of(shown_taps("mixed", [toy_with("mixed", lambda x: np.roll(x, 2, -1))]))
    assert found.words.startswith("the right values shifted by 2 along the d slices")
    assert found.remedy
