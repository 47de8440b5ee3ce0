"""What a candidate showed is read names, shapes and dtypes first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.checks.evidence import call_sizes, fit_slots, gather, recorded_dtype, shape_problem
from grok_conformance.harness.contract import Array, CandidateInfo, TapSpec, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from tests.harness.honest_port import golden_case, golden_taps

TAP = "layers.01.attention.output"


SIZES = {**UNEQUAL.axis_sizes, "b": 2, "t": 6, "visible": 6}


INFO = CandidateInfo(name="port", version="1")


def spec_of(tap: str) -> TapSpec:
    """Return the row of the contract for a tap."""
    return GROK_1.specs[split_tap(tap)[1]]


def draw(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal(shape)


OTHER_ORDER = ", whose axes stand in another order"


@pytest.mark.parametrize(
    ("tap", "shape", "problem"),
    [
        (TAP, (2, 6, 40), ""),
        (TAP, (2, 6, 41), "shape [2, 6, 41], expected [b, t, d] = [2, 6, 40]"),
        (TAP, (6, 2, 40), f"shape [6, 2, 40], expected [b, t, d] = [2, 6, 40]{OTHER_ORDER}"),
        (TAP, (12, 40), "shape [12, 40], expected [b, t, d] = [2, 6, 40]"),
        (TAP, (), "shape [], expected [b, t, d] = [2, 6, 40]"),
        ("layers.00.kv.keys", (2, 6, 3, 8), ""),
        ("layers.00.kv.keys", (2, 5, 3, 8), "shape [2, 5, 3, 8], expected [b, s, g, h] = [2, 9, 3, 8]"),
        ("layers.00.kv.keys", (2, 4096, 3, 8), ""),
        ("layers.00.kv.keys", (2, 3, 9, 8), f"shape [2, 3, 9, 8], expected [b, s, g, h] = [2, 9, 3, 8]{OTHER_ORDER}"),
    ],
)
def test_shapes_are_judged_before_values_and_the_key_axis_may_have_any_length_that_shows_enough(
    tap: str, shape: tuple[int, ...], problem: str
) -> None:
    assert shape_problem(spec_of(tap), shape, np.dtype(np.float32), "bfloat16", SIZES) == problem


@pytest.mark.parametrize(
    ("dtype", "recorded", "problem"),
    [
        (np.float32, "float32", ""),
        (np.float64, "float32", ""),
        (np.float32, "bfloat16", ""),
        (np.float16, "bfloat16", ""),
        (ml_dtypes.bfloat16, "float32", "dtype bfloat16 is narrower than float32"),
        (np.float16, "float32", "dtype float16 is narrower than float32"),
        (np.int32, "bfloat16", "dtype int32, expected bfloat16"),
        (np.int8, "bfloat16", "dtype int8, expected bfloat16"),
        (np.bool_, "float32", "dtype bool, expected float32"),
    ],
)
def test_a_dtype_may_be_wider_than_recorded_but_not_narrower_and_no_integer(
    dtype: type[np.generic], recorded: str, problem: str
) -> None:
    assert shape_problem(spec_of(TAP), (2, 6, 40), np.dtype(dtype), recorded, SIZES) == problem


@pytest.mark.parametrize(("dtype", "fits"), [(np.int32, True), (np.int64, True), (np.uint8, True), (np.float32, False)])
def test_chosen_experts_are_integers(dtype: type[np.generic], *, fits: bool) -> None:
    problem = shape_problem(spec_of("layers.00.moe.expert_index"), (2, 6, 2), np.dtype(dtype), "int32", SIZES)
    assert (problem == "") == fits


@pytest.mark.parametrize(
    ("dtypes", "tap", "recorded"),
    [
        ({}, "layers.00.kv.keys", "bfloat16"),
        ({"*": "float32"}, "layers.00.attention.norm", "bfloat16"),  # wider is judged as what the contract asks for
        ({"*.kv.*": "float16"}, "layers.00.kv.keys", "float16"),  # but a cache as what the port keeps it in
        ({"*": "fprop"}, "layers.00.kv.keys", "bfloat16"),
        ({"*": "bfloat16"}, "layers.00.router.logits", "float32"),
        ({"*": "bfloat16"}, "layers.00.moe.expert_index", "int32"),
    ],
)
def test_a_declared_dtype_never_narrows_what_the_contract_fixes(
    dtypes: Mapping[str, str], tap: str, recorded: str
) -> None:
    contract = {
        "attention.norm": "bfloat16",
        "kv.keys": "bfloat16",
        "router.logits": "float32",
        "moe.expert_index": "int32",
    }
    assert recorded_dtype(tap, spec_of(tap), contract, replace(INFO, dtypes=dtypes), UNEQUAL) == recorded


def test_a_narrower_cache_is_judged_by_its_declared_dtype_and_the_first_match_wins() -> None:
    config = replace(UNEQUAL, fprop_dtype="float32")
    info = replace(INFO, dtypes={"*.kv.keys": "float16", "*": "bfloat16"})
    contract = {"kv.keys": "float32", "kv.values": "float32"}
    assert recorded_dtype("layers.00.kv.keys", spec_of("layers.00.kv.keys"), contract, info, config) == "float16"
    assert recorded_dtype("layers.00.kv.values", spec_of("layers.00.kv.values"), contract, info, config) == "bfloat16"


@pytest.mark.parametrize(
    ("tap", "fprop_dtype", "problem"),
    [
        ("moe.expert_output", "bfloat16", ""),
        ("moe.expert_hidden", "bfloat16", ""),
        ("moe.expert_output", "float32", "dtype bfloat16 is narrower than float32"),
        ("router.logits", "bfloat16", "dtype bfloat16 is narrower than float32"),
        ("attention.logits", "bfloat16", "dtype bfloat16 is narrower than float32"),
    ],
)
def test_what_a_port_may_round_it_may_show_in_its_compute_dtype(tap: str, fprop_dtype: str, problem: str) -> None:
    preset, case = golden_case(f"unequal/prefill/padded_batch.{fprop_dtype}")
    key = f"call0/layers.01.{tap}"
    taps = {**golden_taps(case.id), key: golden_taps(case.id)[key].astype(ml_dtypes.bfloat16)}
    found = gather(preset, case, INFO, taps).problems
    assert [each.problem for each in found.values()] == ([problem] if problem else [])


@pytest.mark.parametrize(
    ("case_id", "visible"),
    [
        ("unequal/prefill/padded_batch.float32", [6]),
        ("unequal/prefill/leading_pads.float32", [6]),  # queries that see no key average over all of the call
        ("unequal/decode/pad_token.float32", [6, 7]),
    ],
)
def test_a_cache_that_grows_has_slots_enough(case_id: str, visible: list[int]) -> None:
    preset, case = golden_case(case_id)
    assert [call_sizes(preset.config, case, call)["visible"] for call in range(len(case.calls))] == visible


def test_slots_are_cropped_or_filled_with_zeros_to_the_cache() -> None:
    cache = draw(2, 6, 3, 8)
    longer = fit_slots(cache, SPECS["kv.keys"], 9)
    assert longer.shape == (2, 9, 3, 8)
    assert np.array_equal(longer[:, :6], cache)
    assert not longer[:, 6:].any()
    assert np.array_equal(fit_slots(cache, SPECS["kv.keys"], 4), cache[:, :4])
    assert fit_slots(cache, SPECS["attention.query"], 4) is cache
