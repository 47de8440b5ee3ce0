"""The power of a fault in one case: the whole of it is seen, a trace of it is not."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from grok_conformance.harness.diagnosis.power import taps_of_level
from grok_conformance.harness.diagnosis.power_model import power_of_case
from grok_conformance.harness.faults import FAULTS
from tests.harness.honest_port import NUM_ELEMENTS, exact_weights, golden_case, golden_taps

STRESS = "stress/prefill/saturated_cap"


ALL = taps_of_level("caches")


def power_at(case_id: str, fault: str, level: str, dose: float = 1.0) -> float:
    return power_of_taps(case_id, fault, taps_of_level(level), dose)


def power_of_taps(case_id: str, fault: str, taps: Collection[str], dose: float) -> float:
    preset, case = golden_case(case_id)
    weights = exact_weights(preset.name, case.fprop_dtype)
    faults = {fault: replace(FAULTS[fault], dose=dose)}
    return power_of_case(preset, case, golden_taps(case_id), taps, faults, NUM_ELEMENTS, weights).get(fault, 0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_whole_of_a_fault_is_seen_and_a_trace_of_it_is_not(dtype: str) -> None:
    assert power_at(f"{STRESS}.{dtype}", "gelu_quick", "caches") == 1
    assert power_at(f"{STRESS}.{dtype}", "gelu_quick", "caches", dose=1e-9) == 0


def test_a_post_norm_hides_a_factor_from_the_logits_and_not_from_the_taps() -> None:
    case_id = "unequal/prefill/padded_batch.bfloat16"
    for fault in ("attention_multiplier_on_output", "gates_renormalised"):
        assert power_at(case_id, fault, "caches") == 1
        assert power_at(case_id, fault, "logits") < 0.1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_cache_strays_as_far_as_what_is_hidden_before_it_passes_on(dtype: str) -> None:
    case_id, taps = f"unequal/prefill/padded_batch.{dtype}", tuple(tap for tap in ALL if "key_rotated" not in tap)
    assert power_of_taps(case_id, "rope_base_wrong", taps, 1.0) == 1
    assert power_of_taps(case_id, "rope_base_wrong", taps, 1e-9) == 0


def test_a_fault_that_changes_nothing_in_a_case_is_not_seen_in_it() -> None:
    assert power_at("unequal/prefill/padded_batch.float32", "decode_position_zero", "caches") == 0


def test_a_wrong_choice_of_experts_is_seen_where_no_scores_are_shown() -> None:
    shown = [tap for tap in ALL if not tap.startswith("router.")]
    assert power_of_taps(f"{STRESS}.bfloat16", "top_k_off_by_one", shown, 1.0) == 1
