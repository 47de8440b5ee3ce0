"""What of a row fails in the local checks, and which cases tell most of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.local import failing_together, fails, telling
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic
from tests.harness.checks.plan_ports import CASE, DECODE, shown


def of_ratio(call: int, tap: str, ratio: float, *systematic: Systematic) -> Comparison:
    return Comparison(call, tap, 10, tail=ratio, systematic=systematic)


def in_common(score: float) -> Systematic:
    return Systematic("gain", coefficient=score, standard_error=1.0, floor=0.0, information=1.0, allowed=1.0)


@pytest.mark.parametrize(("score", "expected"), [(0.99, False), (1.0, False), (1.01, True), (2.5, True)])
def test_what_is_in_common_fails_beyond_what_is_allowed(score: float, *, expected: bool) -> None:
    port = shown(CASE)
    local = {CASE: [of_ratio(0, "layers.00.attention.weights", 0.5, in_common(score))]}
    assert failing_together([port], local) == ({"attention.weights"} if expected else set())
    assert fails("attention.weights", [port], local) == expected


def test_no_way_gives_back_a_tap_that_is_missing() -> None:
    port = shown(CASE)
    local = {CASE: [Comparison(0, "layers.00.attention.logits", 0, problem="missing")]}
    assert not fails("attention.logits", [port], local)
    assert telling("attention.logits", [port], local) == []


def test_cases_in_which_a_row_fails_tell_before_larger_ones_in_which_it_passes() -> None:
    ports: Sequence[Exhibit] = [shown(CASE), shown(DECODE)]
    tap = "layers.00.attention.logits"
    local = {CASE: [of_ratio(0, tap, 0.5)] * 3, DECODE: [of_ratio(0, tap, 7.0)]}
    assert [one.case.id for one in telling("attention.logits", ports, local)] == [DECODE, CASE]
    assert np.isfinite(local[CASE][0].ratio)
