from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.cases.suite import make_preset, suite_cases
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.graph.grok_1 import GROK_1
from tests.harness.honest_port import at_fault, check, golden_case, taps_of

CASE_IDS = [case.id for case in suite_cases()]
TOKENS, LENGTHS = np.array([[5, 9, 60, 3], [91, 4, 0, 0]], np.int32), np.array([4, 2], np.int32)


def load(name: str = "unequal", dtype: str = "float32") -> numpy_float64.Model:
    preset = make_preset(name)
    return numpy_float64.load(replace(preset.config, fprop_dtype=dtype), preset.weights)


def run(case_id: str, taps: Collection[str]) -> dict[str, Array]:
    preset, case = golden_case(case_id)
    model = numpy_float64.load(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    if case.preload is not None:
        model.preload(case.preload.keys, case.preload.values, case.preload.steps)
    shown: dict[str, Any] = {}
    for i, call in enumerate(case.calls):
        if call.kind == "decode":
            made = model.decode(call.tokens, taps)
        else:
            made = (model.prefill if call.kind == "prefill" else model.extend)(call.tokens, call.lengths, taps)
        shown |= {tap_key(i, tap): x for tap, x in made.items()}
    return shown


@pytest.mark.parametrize("case_id", CASE_IDS)
def test_the_oracle_conforms_in_every_case_with_one_rounding_per_operation(case_id: str) -> None:
    comparisons = check(case_id, run(case_id, taps_of(case_id)))
    assert at_fault(comparisons) == set()
    assert max(comparison.excess for comparison in comparisons) <= 1e-6


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_tap_has_the_dtype_of_the_contract(dtype: str) -> None:
    case_id = f"float32_scales/prefill/wide_experts.{dtype}"
    preset, case = golden_case(case_id)
    kept = GROK_1.recorded_dtypes(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    shown = run(case_id, taps_of(case_id))
    assert {key: str(x.dtype) for key, x in shown.items()} == {
        key: kept[split_tap(key.split("/", 1)[1])[1]] for key in shown
    }


def test_only_the_taps_asked_for_are_returned_and_they_do_not_depend_on_the_others() -> None:
    alone = load().prefill(TOKENS, LENGTHS, ("logits",))
    among = load().prefill(TOKENS, LENGTHS, taps_of("unequal/prefill/padded_batch.float32"))
    assert set(alone) == {"logits"}
    assert np.array_equal(alone["logits"], among["logits"])


def test_a_prefill_starts_afresh_and_decoding_goes_on_at_each_rows_length() -> None:
    model, next_tokens = load(), np.array([[7], [8]], np.int32)
    first = model.prefill(TOKENS, LENGTHS, ("logits",))["logits"]
    model.decode(next_tokens, ())
    assert np.array_equal(model.prefill(TOKENS, LENGTHS, ("logits",))["logits"], first)
    decoded = model.decode(next_tokens, ("logits", "layers.00.kv.keys"))
    joined = np.array([[91, 4, 8]], np.int32)  # the second row without its pads
    whole = load().prefill(joined, np.array([3], np.int32), ("logits", "layers.00.kv.keys"))
    assert np.allclose(decoded["logits"][1, 0], whole["logits"][0, 2], rtol=1e-5, atol=1e-6)
    assert np.allclose(decoded["layers.00.kv.keys"][1, :3], whole["layers.00.kv.keys"][0, :3], rtol=1e-5, atol=1e-6)


def test_decoding_without_a_cache_is_refused() -> None:
    with pytest.raises(ValueError, match="before prefill or preload"):
        load().decode(np.array([[7]], np.int32), ("logits",))
