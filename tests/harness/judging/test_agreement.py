"""A name is told of a candidate only if it holds in every compute dtype."""

from __future__ import annotations

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.judging.agreement import Told, in_agreement

CAP, NORM = "attention.logits", "moe.norm"


def told(faults: tuple[str, ...], likeliest: str, shown: set[str], wrong: set[str]) -> Told:
    diagnosis = Diagnosis(faults, likeliest, 1.0, 0.01, 1.0, 9.0, "no fault")
    return Told({CAP: diagnosis}, frozenset(shown), frozenset(wrong))


def test_a_name_that_another_compute_dtype_contradicts_is_taken_back() -> None:
    named = told(("attention_cap_missing",), "attention_cap_missing", {CAP}, {CAP})
    other = told((), "attention_cap_missing", {CAP}, {CAP})
    assert in_agreement({"float32": named})["float32"][CAP].faults == ("attention_cap_missing",)
    assert in_agreement({"float32": named, "bfloat16": other})["float32"][CAP].faults == ()


def test_what_is_wrong_in_one_dtype_is_right_in_none() -> None:
    named = told(("attention_cap_missing",), "attention_cap_missing", {CAP, NORM}, {CAP})
    other = Told({}, frozenset({CAP, NORM}), frozenset({NORM}))
    held = in_agreement({"float32": named, "bfloat16": other})
    assert held == {"float32": {CAP: named.diagnoses[CAP]}, "bfloat16": {}}
