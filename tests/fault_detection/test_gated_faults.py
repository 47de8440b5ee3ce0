"""The family of gated faults is wide, one of it is found where it is, and what never strikes is not found."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fault_detection.gated_family import BORDERS, TAPS, GatedFault, beyond, family, multiple, one_less, one_more
from tests.fault_detection.gated_faults import Outcome, rates, table, tried

BY_NAME = {border.name: border for border in BORDERS}


def test_the_family_has_many_borders_at_many_operations_each_fault_once() -> None:
    faults = family()
    assert len({fault.name for fault in faults}) == len(faults) >= 60
    assert len(BY_NAME) == len(BORDERS) >= 40
    assert {fault.operation for fault in faults} == set(TAPS)


def test_borders_of_blocks_are_what_their_names_say() -> None:
    sizes = range(1, 70)
    assert [n for n in sizes if multiple(32)(n)] == [32, 64]
    assert [n for n in sizes if one_more(32)(n)] == [33, 65]
    assert [n for n in sizes if one_less(32)(n)] == [31, 63]
    assert [n for n in sizes if beyond(67)(n)] == [68, 69]


@pytest.mark.parametrize(
    ("border", "operation", "case"),
    [
        ("sums of 256 terms", "expert_linear", "sweep_at_256/sweep/contractions"),
        ("twelve layers", "update_cache", "sweep_deep/sweep/layers"),
    ],
)
def test_a_fault_of_the_family_is_found_at_its_operation(border: str, operation: str, case: str) -> None:
    outcome = tried(GatedFault(BY_NAME[border], operation), seed=3)
    assert outcome.located
    assert outcome.case == case


def test_what_never_strikes_is_not_found_and_the_rates_say_so() -> None:
    never = replace(BY_NAME["twelve layers"], gate=lambda _: False)
    outcome = tried(GatedFault(never, "residual"), seed=3)
    assert outcome == Outcome(outcome.fault, "", frozenset())
    assert rates([outcome]) == ["* found: 0 of 1, 0.0%", "* located: 0 of 1, 0.0%"]
    assert table([outcome])[-1] == "| twelve layers | – | residual | 0 of 1 | 0 of 1 |"
