from __future__ import annotations

import numpy as np

from grok_conformance.harness.diagnosis.described import described
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, exhibit_with

KNOWN = Diagnosis(("gelu_erf",), "gelu_erf", 1.0, 0.01, 0.98, 12.0, "no fault")


def test_a_fault_without_a_name_is_told_by_its_likeness_and_its_place() -> None:
    shown = exhibit_with(DECODE, "moe.norm", lambda x: 2 * x, first_call=1)
    found = described(UNEXPLAINED, "moe.norm", [shown], [[]])
    assert found is not None
    assert describe(found) == (
        "no known fault explains this; the failing values are the right values times 2; only decode steps"
    )
    assert found.remedy.startswith("look for that factor")


def test_a_fault_with_a_name_is_placed_and_its_likeness_is_not_told() -> None:
    shown = exhibit_with(DECODE, "moe.norm", lambda x: 2 * x, first_call=1)
    found = described(KNOWN, "moe.norm", [shown], [[]])
    assert found is not None
    assert (found.faults, found.place) == (("gelu_erf",), "only decode steps")
    assert describe(found).endswith("before no fault; only decode steps")


def test_values_that_are_not_finite_are_placed() -> None:
    shown = exhibit_with(PREFILL, "moe.norm", lambda x: np.where(np.arange(40) < 13, np.nan, x))
    found = described(None, "moe.norm", [shown], [[]])
    assert found is not None
    assert found.place == "only channels 0–12"


def test_where_nothing_can_be_said_nothing_is() -> None:
    assert described(None, "moe.norm", [exhibit_with(PREFILL, "moe.norm", lambda x: x)], [[]]) is None
