from __future__ import annotations

from dataclasses import replace
from typing import get_args

import numpy as np

from grok_conformance.harness.cases.case import Call, CallKind
from grok_conformance.harness.diagnosis.features import KINDS, along, features_of, slots_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, shown_taps
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, taps_with, toy_with


def values(shown: ShownTap, name: str) -> list[int]:
    (feature,) = [each for each in features_of(shown) if each.name == name]
    return sorted(set(np.broadcast_to(feature.values, shown.observed.shape).ravel().tolist()))


def test_a_tap_has_features_of_its_call_its_tokens_and_its_axes() -> None:
    one = taps_with(DECODE, "attention.query", lambda x: x)[-1]
    assert values(one, "kind") == [2]
    assert values(one, "position") == [5, 7]
    assert values(one, "last row") == [0, 1]
    assert values(one, "q") == list(range(12))
    assert values(one, "half of h") == [0, 1]


def test_calls_of_every_kind_have_a_name_and_those_that_cut_the_cache_back_their_features() -> None:
    assert list(KINDS) == list(get_args(CallKind))
    (one,) = taps_with(PREFILL, "final_norm", lambda x: x)
    case = one.exhibit.case
    cut = replace(case, calls=(*case.calls, Call("truncate", case.calls[0].tokens, case.calls[0].lengths, np.ones(2))))
    assert values(replace(one, exhibit=replace(one.exhibit, case=cut), call=1), "kind") == [3]


def test_what_comes_after_the_choice_of_experts_has_their_features() -> None:
    one = taps_with(PREFILL, "moe.expert_hidden", lambda x: x)[0]
    assert set(values(one, "expert")) <= set(range(5))
    assert max(values(one, "load")) <= 20
    assert values(one, "expert slot") == list(range(max(values(one, "load"))))
    norm = taps_with(PREFILL, "moe.norm", lambda x: x)[0]
    assert [each.name for each in features_of(norm) if "expert" in each.name or "sent" in each.name] == []
    output = taps_with(PREFILL, "moe.output", lambda x: x)[0]
    assert values(output, "sent to 3") in ([0, 1], [0], [1])


def test_the_tokens_of_an_expert_are_numbered_with_their_pads_or_without() -> None:
    chosen = np.array([[[0, 1], [1, 2], [1, 0]]])
    real = np.array([[True, False, True]])
    assert slots_of(chosen, real).tolist() == [[[0, 0], [0, 0], [1, 1]]]
    assert slots_of(chosen, np.ones_like(real)).tolist() == [[[0, 0], [1, 0], [2, 1]]]


def test_axes_are_laid_beside_one_another() -> None:
    one = taps_with(PREFILL, "attention.query", lambda x: x)[0]
    assert along(one, "bt", np.zeros((2, 6))).shape == (2, 6, 1, 1)
    assert along(one, "h", np.arange(8)).shape == (1, 1, 1, 8)


def test_a_toy_has_features_too() -> None:
    one = shown_taps("mixed", [toy_with("mixed", lambda x: x)])[0]
    assert values(one, "d") == list(range(40))
