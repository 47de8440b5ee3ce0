"""What patterns of cases ask for: one or several, of stored cases, probes, sweeps and the ladder."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import case_ids
from grok_conformance.harness.judging.groups import MAX_SHAPES, Group, of_few_shapes, with_one_sweep
from grok_conformance.harness.judging.selection import (
    asked_groups,
    asked_rungs,
    each_once,
    matching,
    stored_groups,
    union,
)
from tests.harness.honest_port import golden, golden_taps

STRESS, PREFILL = "stress/prefill/saturated_cap.float32", "unequal/prefill/single_token.float32"


def ids(groups: tuple[Group, ...]) -> list[str]:
    return [case.id for group in groups for case in group.cases]


def test_several_patterns_ask_for_what_each_asks_for_and_for_no_case_twice() -> None:
    groups = asked_groups(golden(), [PREFILL, STRESS, "unequal/prefill/*.float32", STRESS], seed=3, drawing=False)
    assert ids(groups)[0] == PREFILL
    assert sorted(ids(groups)) == sorted({STRESS, *case_ids(golden(), "unequal/prefill/*.float32")})
    assert [group.preset.name for group in groups] == ["unequal", "stress"]
    for group in groups:
        for case in group.cases:
            assert set(group.expected(case.id)) == set(golden_taps(case.id))


def test_of_several_patterns_of_stored_cases_each_case_is_drawn_again_once() -> None:
    groups = asked_groups(golden(), [PREFILL, "unequal/prefill/*"], seed=3)
    redrawn = [case_id.partition("~")[0] for case_id in ids(groups) if (drawn_as(case_id) or "")[:1] == ("redrawn",)]
    assert sorted(redrawn) == sorted(
        {case_id.rpartition(".")[0] for case_id in case_ids(golden(), "unequal/prefill/*")}
    )
    assert len([case_id for case_id in ids(groups) if "~reweighted-" in case_id]) == 2


def test_probes_sweeps_drawn_cases_and_stored_ones_go_together_in_this_order() -> None:
    patterns = [
        "probe_moe/*.float32",
        "sweep_deep/*",
        f"{PREFILL.replace('.', '~redrawn-7.').replace('float32', 'bfloat16')}",
        STRESS,
    ]
    groups = asked_groups(golden(), patterns, seed=3)
    names = list(dict.fromkeys(group.preset.name for group in groups))
    assert names == ["stress", "probe_moe", "sweep_deep", "unequal"]
    assert with_one_sweep(groups) == groups
    assert len([name for name in ids(groups) if name.startswith("unequal")]) == 1


@pytest.mark.parametrize("other", ["strees/*", "probe_more/*", "sweep_deeper/*", "stress/*~redrawn-3.float64"])
def test_a_pattern_among_several_that_matches_nothing_is_named(other: str) -> None:
    with pytest.raises(FileError) as refused:
        asked_groups(golden(), [STRESS, other], seed=3)
    assert other in str(refused.value)


def test_models_of_two_seeds_stay_apart() -> None:
    one, two = (asked_groups(golden(), "sweep_deep/*", "float32", seed=seed) for seed in (3, 8))
    assert len(union([*one, *two, *one])) == 2


def test_weights_and_rungs_are_asked_of_several_patterns_too() -> None:
    assert [group.preset.name for group in stored_groups(golden(), [STRESS, PREFILL])] == ["stress", "unequal"]
    rungs = asked_rungs(3, ["ladder_batch_2/*", "ladder_batch_1/*", "ladder_batch_2/*"])
    assert [group.preset.name for group in rungs] == ["ladder_batch_2", "ladder_batch_1"]


def test_groups_are_cut_to_the_cases_that_patterns_match() -> None:
    groups = stored_groups(golden(), ["stress/*", "unequal/prefill/*"])
    kept = matching(groups, [PREFILL, STRESS])
    assert sorted(ids(kept)) == [STRESS, PREFILL]
    assert len(kept) == len(groups)
    with pytest.raises(FileError, match="no case 'strees"):
        matching(groups, [PREFILL, "strees/*"])


def test_no_pattern_asks_for_all_cases() -> None:
    assert each_once(()) == each_once("*") == ("*",)
    assert set(ids(stored_groups(golden(), []))) == set(case_ids(golden()))


def test_sweeps_are_asked_by_name_and_come_with_all_stored_cases_where_something_is_drawn() -> None:
    def presets(pattern: str, *, drawing: bool = True) -> set[str]:
        return {group.preset.name for group in asked_groups(golden(), pattern, seed=3, drawing=drawing)}

    assert presets("sweep_deep/*", drawing=False) == {"sweep_deep"}
    assert presets("*") > {"sweep_deep", "unequal"}
    assert not any(name.startswith("sweep_") for name in presets("*", drawing=False) | presets("u*"))


@pytest.mark.parametrize(
    "name", ["sweep_deep/sweep/layers~redrawn-3.bfloat16", "unequal/prefill/padded_batch~redrawn-3"]
)
def test_the_id_of_a_drawn_case_asks_for_it_again_and_for_nothing_else(name: str) -> None:
    every = {case.id: case for group in asked_groups(golden(), seed=3) for case in group.cases}
    (case_id,) = (case_id for case_id in every if case_id.startswith(name))
    ((case,),) = (group.cases for group in asked_groups(golden(), case_id, seed=8))
    assert case.id == case_id
    assert all(np.array_equal(a.tokens, b.tokens) for a, b in zip(case.calls, every[case_id].calls, strict=True))
    with pytest.raises(FileError, match="not drawn alone in float64"):
        asked_groups(golden(), f"{case_id.rpartition('.')[0]}.float64", seed=8)


def test_all_but_one_sweep_can_be_left_out_by_turns_that_hang_on_the_seed() -> None:
    found = [with_one_sweep(asked_groups(golden(), "*", seed=seed)) for seed in range(2)]
    kept = [
        [(group.preset.name, group.fprop_dtype) for group in groups if group.preset.name.startswith("sweep_")]
        for groups in found
    ]
    assert [len(names) for names in kept] == [1, 1]
    assert kept[0] != kept[1]
    assert {case.id for group in found[0] for case in group.cases} >= set(case_ids(golden()))


def test_of_a_sweep_of_many_shapes_some_requests_are_asked_by_turns() -> None:
    (long,) = asked_groups(golden(), "sweep_long/*.float32", seed=3)
    few = [of_few_shapes(long.cases, seed) for seed in range(2)]
    shapes = [{call.tokens.shape for case in cases for call in case.calls} for cases in few]
    assert all(1 < len(each) <= MAX_SHAPES for each in shapes)
    assert shapes[0] != shapes[1]
    assert all([case for case in long.cases if case.id in {each.id for each in cases}] == list(cases) for cases in few)


def test_a_sweep_of_few_shapes_is_asked_whole() -> None:
    (prefixes,) = asked_groups(golden(), "sweep_prefixes/*.float32", seed=3)
    assert of_few_shapes(prefixes.cases, 3) == prefixes.cases


def test_sweeps_that_are_asked_by_name_are_all_kept() -> None:
    groups = asked_groups(golden(), "sweep_*", seed=3)
    assert with_one_sweep(groups) == tuple(groups)
