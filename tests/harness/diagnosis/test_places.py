from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.places import Place, count_words, inside, place_of, values_of
from grok_conformance.harness.diagnosis.shown_tap import shown_taps
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, Change, taps_with, toy_with


def at(where: tuple[object, ...]) -> Change:
    def change(x: Array) -> Array:
        x = x.copy()
        x[where] *= 1.5  # type: ignore[index]
        return x

    return change


@pytest.mark.parametrize(
    ("operation", "where", "place"),
    [
        ("attention.output", (..., slice(0, 13)), "only channels 0–12"),
        ("attention.output", (..., slice(20, None)), "only the second half of the channels"),
        ("attention.output", (..., slice(1, None, 2)), "only odd channels"),
        ("attention.query", (slice(None), slice(None), 3), "only query head 3"),
        ("attention.query", (slice(None), slice(None), 3, 1), "only query head 3, head channel 1"),
        ("attention.query", (1,), "only the last row"),
        ("moe.expert_output", (slice(None), slice(None), 1), "only choice 1"),
    ],
)
def test_a_place_is_told_in_few_words(operation: str, where: tuple[object, ...], place: str) -> None:
    found = place_of(taps_with(PREFILL, operation, at(where)))
    assert sorted(found.words.removeprefix("only ").split(", ")) == sorted(place.removeprefix("only ").split(", "))


def test_calls_and_layers_are_places() -> None:
    assert place_of(taps_with(DECODE, "moe.norm", lambda x: 2 * x, first_call=1)).words == "only decode steps"
    assert place_of(taps_with(DECODE, "moe.norm", lambda x: 2 * x, layers="1")).words == "only layer 1"


def test_nothing_is_told_of_what_fails_throughout_nowhere_or_at_random() -> None:
    random = np.random.default_rng(0)
    assert place_of(taps_with(PREFILL, "moe.norm", lambda x: 2 * x)) == Place()
    assert place_of(taps_with(PREFILL, "moe.norm", lambda x: x)) == Place()
    assert place_of(taps_with(PREFILL, "moe.norm", lambda x: x * random.choice([1, 2], x.shape))) == Place()


def test_a_small_place_of_which_not_all_fails_is_told_as_such() -> None:
    few = np.random.default_rng(0).choice([1, 2], (2, 6, 40), p=[0.85, 0.15])
    few[0] = 1
    found = place_of(taps_with(PREFILL, "moe.norm", lambda x: x * few))
    assert (found.words, found.partly) == ("only the last row, but not all of it", True)


def test_a_place_says_which_elements_lie_in_it() -> None:
    taps = taps_with(PREFILL, "attention.output", at((..., slice(0, 13))))
    found = inside(taps[0], place_of(taps))
    assert found[..., :13].all()
    assert not found[..., 13:].any()
    assert not inside(taps[0], Place("elsewhere", {"no feature": (1,)})).any()


def test_a_few_stray_values_do_not_widen_a_place() -> None:
    values, wrong = np.repeat([2, 5], [999, 3]), np.ones(1002, bool)
    assert values_of(values, wrong, np.ones(1002)) == (2,)


@pytest.mark.parametrize(
    ("noun", "kept", "every", "words"),
    [
        ("channel", (3,), [1, 2, 3], "channel 3"),
        ("channel", (1, 2), [1, 2, 3], "channels 1–2"),
        ("channel", (1, 3), [1, 2, 3], "channels 1 and 3"),
        ("channel", (0, 3, 6, 9, 12), list(range(14)), "channels 0, 3, … 12"),
        ("channel", (0, 1, 6, 9, 12), list(range(14)), ""),
        ("calls of tokens", (17, 33), [1, 16, 17, 33], "calls of 17 or more tokens"),
        ("calls of tokens", (1,), [1, 16], "calls of 1 token"),
        ("experts with tokens", (1, 2), [1, 2, 9], "experts with 2 or fewer tokens"),
    ],
)
def test_values_of_a_feature_in_words(noun: str, kept: tuple[int, ...], every: list[int], words: str) -> None:
    assert count_words(noun, kept, every) == words


def test_places_of_a_toy_are_told_by_the_letters_of_its_axes() -> None:
    assert (
        place_of(shown_taps("mixed", [toy_with("mixed", at((..., slice(0, 7))))])).words == "only d slices 0–6, layer 1"
    )
