"""Groups: every case once, by preset and compute dtype."""

from __future__ import annotations

from collections import Counter

import pytest

from grok_conformance.harness.golden.reading import FixtureError, case_ids
from grok_conformance.harness.judging.groups import read_groups, run_size
from tests.harness.honest_port import golden, golden_taps

STRESS = "stress/prefill/saturated_cap.float32"


def test_groups_hold_every_case_once_by_preset_and_dtype() -> None:
    groups = read_groups(golden())
    names = [case.id for group in groups for case in group.cases]
    assert sorted(names) == sorted(case_ids(golden()))
    assert max(Counter((group.preset.name, group.fprop_dtype) for group in groups).values()) == 1
    for group in groups:
        assert {(case.preset, case.fprop_dtype) for case in group.cases} == {(group.preset.name, group.fprop_dtype)}


def test_groups_hold_only_what_the_pattern_matches_and_something_at_least() -> None:
    (group,) = read_groups(golden(), "stress/*.float32")
    assert [case.id for case in group.cases] == [STRESS]
    assert set(group.expected(STRESS)) == set(golden_taps(STRESS))
    with pytest.raises(FixtureError, match="no case 'strees"):
        read_groups(golden(), "strees/*")


def test_the_size_of_a_run_is_the_number_of_elements_of_all_its_taps() -> None:
    groups = read_groups(golden(), "unequal/*")
    elements = sum(x.size for group in groups for case in group.cases for x in golden_taps(case.id).values())
    assert run_size(groups) == elements
