from __future__ import annotations

from grok_conformance.harness.diagnosis import elementwise
from grok_conformance.harness.diagnosis.hypothesis import trial_of
from grok_conformance.harness.diagnosis.shown_tap import shown_taps
from grok_conformance.harness.diagnosis.transformations import TRANSFORMATIONS
from tests.harness.diagnosis.faulty_port import PREFILL, toy_with, trial_with


def test_every_row_says_what_to_change() -> None:
    assert all(row.remedy and row.remedy[0].islower() and not row.remedy.endswith(".") for row in TRANSFORMATIONS)
    assert len({row.hypotheses for row in TRANSFORMATIONS}) == len(TRANSFORMATIONS)


def test_a_row_that_applies_the_operation_again_says_so() -> None:
    for row in TRANSFORMATIONS:
        of_inputs = row.hypotheses.__module__.endswith(("recomputed", "other_weights", "consequences"))
        assert row.recomputes == (of_inputs or row.hypotheses is elementwise.of_the_argument)


def test_rows_have_hypotheses_about_an_operation_of_grok_1_and_of_a_toy() -> None:
    grok = trial_with(PREFILL, "moe.expert_activation", lambda x: 2 * x)
    toy = trial_of(shown_taps("mixed", [toy_with("mixed", lambda x: 2 * x)])[1])
    for trial, least in ((grok, 60), (toy, 20)):
        words = [one.words for row in TRANSFORMATIONS for one in row.hypotheses(trial)]
        assert len(words) >= least
        assert len(set(words)) >= 0.95 * len(words)
