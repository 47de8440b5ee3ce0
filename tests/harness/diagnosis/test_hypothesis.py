from __future__ import annotations

import numpy as np

from grok_conformance.harness.diagnosis.hypothesis import trial_of
from tests.harness.diagnosis.faulty_port import PREFILL, taps_with


def test_hypotheses_are_tried_on_what_fails_and_on_all_where_nothing_does() -> None:
    wrong = trial_of(taps_with(PREFILL, "moe.norm", lambda x: x * np.where(np.arange(40) < 4, 2, 1))[0])
    right = trial_of(taps_with(PREFILL, "moe.norm", lambda x: x)[0])
    assert (len(wrong.at), wrong.faint) == (10 * 4, False)
    assert (len(right.at), right.faint) == (10 * 40, True)


def test_what_is_not_finite_is_left_out() -> None:
    trial = trial_of(taps_with(PREFILL, "moe.norm", lambda x: np.where(np.arange(40) < 4, np.nan, 2 * x))[0])
    assert len(trial.at) == 10 * 36
