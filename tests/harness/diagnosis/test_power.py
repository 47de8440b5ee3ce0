from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import pytest

from grok_conformance.harness.contract import LEVELS
from grok_conformance.harness.diagnosis.power import describe, power_of_run, power_table, taps_of_level
from grok_conformance.harness.diagnosis.power_model import faults_shown_by, power_of_case
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.golden.reading import case_ids
from tests.harness.honest_port import NUM_ELEMENTS, exact_weights, golden, golden_case, golden_taps

STRESS = "stress/prefill/saturated_cap"
ALL = taps_of_level("caches")
RUN = [(case, case.rsplit(".", 1)[1]) for case in case_ids(golden())]


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


def test_a_full_run_sees_every_known_fault_from_all_taps() -> None:
    for power in power_of_run("caches", RUN):
        assert (power.invisible, power.not_asked) == ((), ())
        assert len(power.probability) == sum(not fault.harmless for fault in FAULTS.values())
        assert "cannot see" not in describe(power)


def test_a_candidate_that_shows_only_logits_is_told_what_they_cannot_show() -> None:
    narrow, wide = power_of_run("logits", RUN)
    assert (narrow.fprop_dtype, wide.fprop_dtype) == ("bfloat16", "float32")
    assert {"gates_renormalised", "attention_multiplier_on_output", "gelu_erf"} <= set(narrow.invisible)
    assert "cannot see" in describe(narrow)
    assert "gates_renormalised" in describe(narrow)


def test_a_higher_level_sees_no_less() -> None:
    seen = [{x for power in power_of_run(level, RUN) for x in power.invisible} for level in LEVELS]
    assert len(seen[0]) > len(seen[1]) > len(seen[2]) > len(seen[3])


def test_a_run_over_few_cases_tells_which_faults_nothing_asked_for() -> None:
    (power,) = power_of_run("caches", [(f"{STRESS}.float32", "float32")])
    assert "gelu_erf" in power.probability
    assert "decode_position_zero" in power.not_asked
    assert "decode_position_zero" not in power.probability


def test_the_committed_table_is_that_of_the_fault_table_and_the_golden_set() -> None:
    assert set(power_table()) == set(LEVELS)
    asked = {name for case, _ in RUN for name in faults_shown_by(case)}
    assert asked == {name for name, fault in FAULTS.items() if fault.changes}
    for powers in power_table().values():
        assert set(powers) <= set(FAULTS)
        assert {case for power in powers.values() for case in power} <= {case for case, _ in RUN}
