"""Groups: every case once, by preset and compute dtype."""

from __future__ import annotations

from collections import Counter

import pytest

from grok_conformance.harness.cases.drawn import drawn_as, stored_id
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import FixtureError, case_ids
from grok_conformance.harness.judging.groups import (
    any_seed,
    group_again,
    ladder_groups,
    read_groups,
    run_size,
    with_drawn,
)
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


def test_every_case_is_drawn_again_in_one_compute_dtype_and_a_model_of_each_dtype_too() -> None:
    groups = with_drawn(read_groups(golden(), "[su]*/prefill/*"), 3)
    drawn = [case.id for group in groups for case in group.cases if drawn_as(case.id)]
    stored = [case.id for group in groups for case in group.cases if not drawn_as(case.id)]
    redrawn = [stored_id(case_id).rpartition(".")[0] for case_id in drawn if "redrawn" in case_id]
    assert sorted(redrawn) == sorted({case_id.rpartition(".")[0] for case_id in stored})
    assert [case_id.rpartition(".")[2] for case_id in drawn if "reweighted" in case_id] == ["bfloat16", "float32"]
    assert all(not group.expected(case.id) for group in groups for case in group.cases if drawn_as(case.id))
    assert 0 <= any_seed() < 10**6


def test_a_group_is_drawn_once_more_from_the_ids_of_its_cases() -> None:
    stored = read_groups(golden(), "stress/*.float32")
    for group in with_drawn(stored, 3):
        again = group_again(stored[0], [case.id for case in group.cases])
        assert [case.id for case in again.cases] == [case.id for case in group.cases]
        assert all(
            (one.tokens == two.tokens).all()
            for case, other in zip(again.cases, group.cases, strict=True)
            for one, two in zip(case.calls, other.calls, strict=True)
        )
        assert all((again.preset.weights[name] == x).all() for name, x in group.preset.weights.items())


def test_rungs_of_the_ladder_are_groups_chosen_by_a_pattern() -> None:
    groups = ladder_groups(3, "ladder_batch_[12]/*")
    assert [group.preset.name for group in groups] == ["ladder_batch_1", "ladder_batch_2"]
    with pytest.raises(FileError, match="no rung of the ladder matches 'batch'"):
        ladder_groups(3, "batch")


def optional(pattern: str) -> list[bool]:
    groups = with_drawn(read_groups(golden(), pattern), 7)
    return [case.optional for group in groups for case in group.cases if drawn_as(case.id) is not None]


def test_a_port_that_only_prefills_need_not_decode_where_only_prefills_are_asked() -> None:
    assert optional(STRESS) == [True, True]


def test_a_port_that_decodes_stored_cases_must_decode_drawn_ones() -> None:
    assert optional("unequal/decode/pad_token.float32") == [False, False]
