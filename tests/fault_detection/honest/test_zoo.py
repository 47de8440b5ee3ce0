"""Every way of the zoo runs, and is what it says."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import pytest

from grok_conformance.harness.contract import Array, tap_specs
from tests.conformance.torch_cases import torch_taps
from tests.fault_detection.honest.runs import groups_of, verdict_of
from tests.fault_detection.honest.way import Way, taps_of
from tests.fault_detection.honest.zoo import ZOO
from tests.harness.honest_port import golden_case

OPERATIONS = {spec.operation for spec in tap_specs()}

SAME_VALUES = ("base", "logits_only", "outputs_only")
"""Ways that change no value: they are the published one, or only hide taps."""

CASES_OF = {
    "blind_zero": "unequal/prefill/leading_pads",
    "combine_by_id": "square/prefill/padded_batch",
    "topk_unstable": "ties/prefill/exact_ties",
}
"""Cases that show what `unequal/decode/pads_in_cache` does not."""


@functools.cache
def published(case_id: str) -> Mapping[str, Array]:
    return torch_taps(*golden_case(case_id))


@pytest.mark.parametrize("way", ZOO.values(), ids=ZOO.keys())
def test_a_way_runs_and_changes_some_value_that_it_shows(way: Way) -> None:
    case_id = f"{CASES_OF.get(way.id, 'unequal/decode/pads_in_cache')}.{way.dtypes[0]}"
    preset, case = golden_case(case_id)
    taps = taps_of(way, preset, case)
    changed = [
        key
        for key, value in taps.items()
        if value.dtype != published(case_id)[key].dtype or not np.array_equal(value, published(case_id)[key])
    ]
    assert bool(changed) == (way.id not in SAME_VALUES)


@pytest.mark.parametrize("way", ZOO.values(), ids=ZOO.keys())
def test_a_row_names_operations_that_exist_and_says_who_computes_so(way: Way) -> None:
    assert {*way.plan, *way.hides} <= OPERATIONS
    assert way.engines
    assert way.does
    assert bool(way.fault) == (way.mark in ("declared", "wrong"))


def test_the_zoo_has_honest_ways_enough() -> None:
    marks = [way.mark for way in ZOO.values()]
    assert marks.count("honest") >= 80
    assert marks.count("wrong") >= 15


def test_a_published_quirk_that_a_port_does_not_reproduce_is_told_and_is_no_failure() -> None:
    verdict = verdict_of(ZOO["mask_by_length"], groups_of("unequal/decode/*", "float32"))
    assert verdict.passed
    assert set(verdict.missed_quirks) == {"unequal/decode/pads_in_cache.float32", "unequal/decode/pad_token.float32"}
    assert all(row.status == "pass" for row in verdict.operations)


def test_a_run_of_nothing_but_published_quirks_is_no_failure_either() -> None:
    verdict = verdict_of(ZOO["mask_by_length"], groups_of("unequal/decode/pad_token.*", "float32"))
    assert (verdict.status, verdict.passed, verdict.operations) == ("quirk", True, ())
    assert verdict.summary == "quirk, of nothing but published quirks, which it does not reproduce"
    assert verdict.missed_quirks == ("unequal/decode/pad_token.float32",)
