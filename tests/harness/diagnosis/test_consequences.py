from __future__ import annotations

from grok_conformance.harness.diagnosis import consequences
from grok_conformance.harness.diagnosis.likeness import likeness_of
from grok_conformance.harness.diagnosis.shown_tap import shown_taps
from tests.harness.diagnosis.faulty_port import PREFILL, taps_with, trial_with


def test_an_operation_that_used_the_right_value_follows_from_the_one_that_shows_another() -> None:
    taps = taps_with(PREFILL, "attention.query", lambda x: 3 * x)  # shown so, and used as it should be
    source = taps[0].exhibit
    assert likeness_of(shown_taps("attention.query_rotated", [source])).words.startswith(
        "right for what attention.query should have been, not for what it shows"
    )


def test_nothing_follows_from_an_input_that_is_right() -> None:
    trial = trial_with(PREFILL, "attention.query_rotated", lambda x: 2 * x)
    assert list(consequences.from_right_inputs(trial)) == []
    assert not consequences.is_wrong(trial.shown, trial.shown.inputs[0])
