from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.contract import Array, tap_names
from grok_conformance.harness.golden import writing
from grok_conformance.harness.golden.audit import check_golden, demanded_taps, input_problems, tap_problems
from grok_conformance.harness.golden.manifest import describe
from grok_conformance.harness.golden.reading import FixtureError
from tests.harness.tiny_golden import CONFIG, DECODE, DENSE, PREFILL, PROVENANCE, QUANTISED, draw_taps


def with_call(case: Case, index: int, **changes: Any) -> Case:
    calls = list(case.calls)
    calls[index] = replace(calls[index], **changes)
    return replace(case, calls=tuple(calls))


def with_preload(case: Case, **changes: Any) -> Case:
    assert case.preload is not None
    return replace(case, preload=replace(case.preload, **changes))


def int32(values: object) -> Array:
    return np.array(values, np.int32)


def test_sound_cases_have_no_problems() -> None:
    for case, preset in ((DECODE, QUANTISED), (PREFILL, DENSE)):
        assert input_problems(case, preset.config) == []
        assert tap_problems(case, preset, describe(draw_taps(case))) == []


def test_every_tap_of_every_call_is_demanded() -> None:
    assert list(demanded_taps(PREFILL, DENSE)) == [
        f"call{call}/{tap}" for call in (0, 1) for tap in tap_names(DENSE.config)
    ]


def test_demanded_taps_have_the_axes_of_the_contract() -> None:
    demanded = demanded_taps(DECODE, QUANTISED)
    assert demanded["call0/layers.00.attention.weights"] == ("bfloat16", (2, 1, 2, 1, 4))  # [b, g, r, t, s]
    assert demanded["call0/layers.00.kv.keys"] == ("bfloat16", (2, 4, 1, 2))  # [b, s, g, h]
    assert demanded["call0/layers.00.moe.expert_index"] == ("int32", (2, 1, 2))  # [b, t, c]
    assert demanded["call0/layers.00.router.logits"] == ("float32", (2, 1, 3))  # [b, t, e]


def test_dtype_of_the_case_decides_not_that_of_the_preset() -> None:
    assert demanded_taps(DECODE, QUANTISED)["call0/logits"][0] == "bfloat16"
    assert demanded_taps(replace(DECODE, fprop_dtype="float32"), QUANTISED)["call0/logits"][0] == "float32"


def test_float32_scales_make_the_experts_float32() -> None:
    key, scales = "call0/layers.00.moe.expert_up", "transformer/decoder_layer_0/moe/linear/w.scales"
    wide = replace(QUANTISED, weights={**QUANTISED.weights, scales: np.ones((3, 1, 2), np.float32)})
    assert demanded_taps(DECODE, QUANTISED)[key][0] == "bfloat16"
    assert demanded_taps(DECODE, wide)[key][0] == "float32"


def test_missing_unknown_and_misshapen_taps_are_named() -> None:
    taps = draw_taps(DECODE)
    taps["call0/embedding"] = taps["call0/embedding"].astype(np.float32)
    taps["call0/final_norm"] = taps["call0/final_norm"][:1]
    taps["call1/logits"] = taps.pop("call0/logits")
    assert tap_problems(DECODE, QUANTISED, describe(taps)) == [
        "tap call0/logits is missing",
        "tap 'call1/logits' is none that the contract demands of this case",
        "tap call0/embedding is float32 [2, 1, 3], expected bfloat16 [2, 1, 3]",
        "tap call0/final_norm is bfloat16 [1, 1, 3], expected bfloat16 [2, 1, 3]",
    ]


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        (with_call(DECODE, 0, tokens=int32([[5], [7]])), "call0/tokens[1, 0] is 7, expected 0 to 6"),
        (with_call(DECODE, 0, tokens=int32([[-1], [6]])), "call0/tokens[0, 0] is -1, expected 0 to 6"),
        (with_call(PREFILL, 0, lengths=int32([4])), "call0/lengths[0] is 4, expected 0 to 3"),
        (with_call(DECODE, 0, tokens=np.ones((2, 1))), "call0/tokens is float64 [2, 1], expected int32 [2, 1]"),
        (with_call(DECODE, 0, tokens=int32([5, 6])), "call0/tokens is int32 [2], expected int32 [2, 0]"),
        (with_call(DECODE, 0, tokens=int32(5)), "call0/tokens is int32 [], expected int32 [0, 0]"),
        (with_call(DECODE, 0, lengths=int32([1])), "call0/lengths is int32 [1], expected int32 [2]"),
        (with_call(PREFILL, 1, tokens=int32([[5], [5]])), "call1/tokens is int32 [2, 1], expected int32 [1, 1]"),
        (
            with_call(PREFILL, 1, kind="prefill"),
            "call 1 is prefill: prefill starts an empty cache, extend and decode continue one",
        ),
        (
            with_call(PREFILL, 0, kind="extend"),
            "call 0 is extend: prefill starts an empty cache, extend and decode continue one",
        ),
        (
            with_call(DECODE, 0, kind="prefill"),
            "call 0 is prefill: prefill starts an empty cache, extend and decode continue one",
        ),
        (
            with_call(DECODE, 0, lengths=int32([1, 0])),
            "call 0 is decode of 1 tokens with lengths [1, 0], expected 1 per row",
        ),
        (
            with_preload(DECODE, steps=int32([1, 4])),
            "call 0 ends beyond the cache of 4 slots",
        ),
        (
            with_preload(DECODE, steps=int32([-1, 5])),
            "preload/steps[0] is -1, expected 0 to 4",
        ),
        (
            with_preload(DECODE, keys=np.ones((1, 2, 3, 1, 2), np.float32)),
            "preload/keys is float32 [1, 2, 3, 1, 2], expected bfloat16 [1, 2, 4, 1, 2]",
        ),
        (
            with_preload(DECODE, steps=int32(1)),
            "preload/steps is int32 [], expected int32 [2]",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_problem_of_the_inputs_is_named(case: Case, problem: str) -> None:
    assert problem in input_problems(case, CONFIG)


@pytest.mark.parametrize(
    ("check", "case", "file", "problem"),
    [
        ("input_problems", with_call(DECODE, 0, tokens=int32([[5], [7]])), "inputs", "call0/tokens[1, 0] is 7"),
        (
            "tap_problems",
            replace(with_preload(DECODE, steps=int32([1, 2])), calls=DECODE.calls * 2),
            "taps",
            "tap call1/embedding is missing",
        ),
    ],
    ids=["inputs", "taps"],
)
def test_set_of_a_careless_writer_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, check: str, case: Case, file: str, problem: str
) -> None:
    monkeypatch.setattr(writing, check, lambda *_: [])
    written = [(case, draw_taps(DECODE))]
    writing.write_golden(tmp_path / "v1", suite="1.0.0", provenance=PROVENANCE, presets=[QUANTISED], cases=written)
    with pytest.raises(FixtureError, match=re.escape(f"{DECODE.id}/{file}.safetensors: {problem}")):
        check_golden(tmp_path / "v1")
