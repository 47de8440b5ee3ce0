"""The likelihood of ways: what a port really did is likelier than what it did not."""

from __future__ import annotations

import math

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.likelihood import DECISIVE, Score, score
from grok_conformance.harness.faults import FAULTS, mutant
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, honest_taps

CASE = "unequal/prefill/padded_batch.float32"
HIDDEN = "moe.expert_hidden"


def exhibit(fault: str = "") -> Exhibit:
    preset, case = golden_case(CASE)
    taps = honest_taps(CASE, 1, evaluator=mutant(FAULTS[fault])) if fault else honest_taps(CASE, 1)
    return Exhibit(preset, case, evidence_of(CASE, taps), exact_weights(preset.name, "float32"))


def test_an_honest_port_is_explained_and_a_fault_is_decisively_less_likely() -> None:
    honest = [exhibit()]
    right, wrong = score(HIDDEN, honest), score(HIDDEN, honest, mutant(FAULTS["gelu_erf"]))
    assert right.explained
    assert right.beats(wrong)
    assert not wrong.beats(right)


def test_a_port_with_a_fault_is_explained_by_that_fault_alone() -> None:
    faulty = [exhibit("gelu_erf")]
    assert not score(HIDDEN, faulty).explained
    assert score(HIDDEN, faulty, mutant(FAULTS["gelu_erf"])).explained


def test_a_difference_that_is_not_decisive_settles_nothing() -> None:
    assert not Score(0.0, 0.5).beats(Score(DECISIVE / 2, 0.5))
    assert not Score(0.0, math.inf).explained


def test_a_row_of_which_nothing_is_shown_surprises_nobody() -> None:
    assert score("dense.hidden", [exhibit()]) == Score(0.0, 0.0)
