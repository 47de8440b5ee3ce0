"""What of a row fails in the local checks, and which cases tell most of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.local import failing_together, fails, of_row, recheck, telling, worst
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic
from tests.harness.checks.plan_ports import CASE, DECODE, KEPT, STRESS, shown
from tests.harness.honest_port import NUM_ELEMENTS


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


def test_a_row_is_compared_in_the_calls_that_are_looked_at() -> None:
    port, tap = shown(DECODE), "layers.00.attention.logits"
    local = {DECODE: [of_ratio(0, tap, 0.5), of_ratio(1, tap, 7.0), of_ratio(1, "layers.00.attention.query", 9.0)]}
    assert [c.call for c in of_row("attention.logits", port, local)] == [0, 1]
    assert [c.call for c in of_row("attention.logits", replace(port, calls=[0]), local)] == [0]
    assert fails("attention.logits", [port], local)
    assert not fails("attention.logits", [replace(port, calls=[0])], local)
    assert worst("attention.logits", port, local) == 7.0
    assert worst("attention.logits", replace(port, calls=[0]), local) == 0.5


def test_nothing_compared_is_nothing_wrong() -> None:
    assert worst("attention.logits", shown(CASE), {CASE: []}) == 0.0
    assert not fails("attention.logits", [shown(CASE)], {CASE: []})


def test_one_comparison_that_fails_is_enough_and_a_case_tells_by_those_that_are_no_problem() -> None:
    port, tap = shown(CASE), "layers.00.attention.logits"
    missing = Comparison(0, "layers.01.attention.logits", 0, problem="missing")
    local = {CASE: [of_ratio(0, tap, 0.5), of_ratio(0, tap, 7.0), missing]}
    assert fails("attention.logits", [port], local)
    assert telling("attention.logits", [port], local) == [port]


def test_of_cases_that_pass_the_largest_tell_and_no_more_than_two() -> None:
    ports, tap = [shown(CASE), shown(DECODE), shown(STRESS)], "layers.00.attention.logits"
    sizes = {CASE: 3, DECODE: 1, STRESS: 2}
    local = {case: [of_ratio(0, tap, 1.0)] * size for case, size in sizes.items()}
    assert [one.case.id for one in telling("attention.logits", ports, local)] == [CASE, STRESS]


@pytest.mark.parametrize(("ratio", "first"), [(1.0, DECODE), (1.5, CASE)])
def test_a_row_fails_beyond_what_is_allowed_and_not_at_it(ratio: float, first: str) -> None:
    ports, tap = [shown(CASE), shown(DECODE)], "layers.00.attention.logits"
    local = {CASE: [of_ratio(0, tap, ratio)], DECODE: [of_ratio(0, tap, 0.5)] * 2}
    assert telling("attention.logits", ports, local)[0].case.id == first


def test_a_case_that_compares_nothing_but_a_row_is_checked_again() -> None:
    plain = shown(CASE, KEPT)
    local = {CASE: check_case(plain, num_elements=NUM_ELEMENTS, only=["attention.logits"])}
    again = recheck(["attention.logits"], [with_ways(plain, Ways(KEPT))], local, NUM_ELEMENTS)
    assert all(c.passed for c in again[CASE])
    assert not all(c.passed for c in local[CASE])


def test_what_depends_on_a_row_is_checked_again_and_nothing_else() -> None:
    plain = shown(CASE, KEPT)
    local = {CASE: check_case(plain, num_elements=NUM_ELEMENTS), DECODE: []}
    again = recheck(["attention.logits"], [with_ways(plain, Ways(KEPT)), shown(DECODE)], local, NUM_ELEMENTS)
    changed = {new.operation for old, new in zip(local[CASE], again[CASE], strict=True) if old is not new}
    assert changed == {"attention.logits"}
    assert not all(c.passed for c in local[CASE])
    assert all(c.passed for c in again[CASE])
    assert again[DECODE] == []
