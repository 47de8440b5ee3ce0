from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.diagnosis import relocated
from grok_conformance.harness.diagnosis.likeness import likeness_of
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, Change, taps_with, trial_with, words_of


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: np.roll(x, 1, -1), "the right values shifted by 1 along the head channels"),
        (lambda x: x[..., ::-1], "the right values in the reverse order of the head channels"),
        (lambda x: x[:, :, [1, 0, *range(2, 12)]], "the right values with query heads 0 and 1 exchanged"),
        (lambda x: x[:, :, [*range(11), 4]], "right for query head 4, at query head 11"),
        (lambda x: np.broadcast_to(x[:, :, 2:3], x.shape), "the right values those of number 2 for all query heads"),
        (
            lambda x: x.reshape(2, 6, 12, 2, 4).swapaxes(-1, -2).reshape(x.shape),
            "the right values laid out as 4 × 2 for 2 × 4 along the head channels",
        ),
    ],
)
def test_where_values_come_from_is_told(change: Change, words: str) -> None:
    assert likeness_of(taps_with(PREFILL, "attention.query", change)).words.split(" (or ")[0] == words


def test_values_of_another_tap_are_told() -> None:
    one = taps_with(PREFILL, "moe.norm", lambda x: x)[0]
    other = one.values["layers.00.attention.norm"].astype(np.float32)
    found = likeness_of(taps_with(PREFILL, "moe.norm", lambda _: other, layers="0"))
    assert found.words == "the values of attention.norm"


def test_a_buffer_that_is_not_filled_anew_is_told() -> None:
    trial = trial_with(DECODE, "moe.norm", lambda x: 2 * x, first_call=2)
    assert words_of(relocated.of_an_earlier_call(trial)) == {
        "the values of the call before (stale)",
        "the values of the first call (stale)",
    }


def test_another_layer_is_asked_for_its_values() -> None:
    trial = trial_with(PREFILL, "moe.norm", lambda x: 2 * x, layers="1")
    (one,) = relocated.of_another_layer(trial)
    value, _ = one.make(trial.shown)
    np.testing.assert_array_equal(value, trial.shown.values["layers.00.moe.norm"])


def test_axes_are_exchanged_only_where_their_sizes_agree() -> None:
    trial = trial_with("square/prefill/padded_batch.float32", "moe.expert_index", lambda x: x[..., ::-1])
    assert {x.words[-22:] for x in relocated.exchanged_axes(trial)} <= {"axes t and c exchanged"}


@pytest.mark.parametrize(
    ("origin", "rule"),
    [
        ([5, 0, 1, 2, 3, 4], "shifted by 1 along the "),
        ([5, 4, 3, 2, 1, 0], "in the reverse order of the "),
        ([3, 3, 3, 3, 3, 3], "those of number 3 for all "),
        ([0, 2, 4, 1, 3, 5], "laid out as 2 × 3 for 3 × 2 along the "),
        ([0, 5, 4, 1, 3, 2], ""),
    ],
)
def test_the_rule_by_which_places_are_exchanged(origin: list[int], rule: str) -> None:
    assert relocated.pattern(np.array(origin), np.arange(6)) == rule
