"""What pinning the rounding buys: consumers get the value that the tap shows (SPEC §9, first row)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.candidates.reference import parameter_tree, reference_config
from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import CandidateInfo
from tests.harness.honest_port import golden_case

NUM_ELEMENTS = 10**6
CASES = ("stress/prefill/saturated_cap.bfloat16", "realistic/prefill/near_ties.bfloat16")


def excess_by_operation(case_id: str, *, pin_rounding: bool) -> dict[str, float]:
    """Return the largest error beyond one rounding of every operation, in its own float32 units."""
    preset, case = golden_case(case_id)
    config = reference_config(replace(preset.config, fprop_dtype=case.fprop_dtype))
    memory = reference.init_memory(config, len(case.calls[0].tokens), config.sequence_len)
    _, collected = reference.apply_with_taps(
        config, parameter_tree(preset.weights), case.calls[0].tokens, memory=memory, pin_rounding=pin_rounding
    )
    taps = {tap_key(0, name): np.asarray(value) for name, value in collected.items()}
    exhibit = exhibit_of(preset, case, CandidateInfo(name="reference", version=""), taps)
    excess: dict[str, float] = {}
    for found in check_case(exhibit, num_elements=NUM_ELEMENTS):
        excess[found.operation] = max(found.excess, excess.get(found.operation, 0.0))
    return excess


@pytest.mark.parametrize("case_id", CASES)
def test_pinned_no_operation_errs_beyond_one_rounding_by_more_than_two_float32_units(case_id: str) -> None:
    assert max(excess_by_operation(case_id, pin_rounding=True).values()) < 2


@pytest.mark.parametrize("case_id", CASES)
def test_unpinned_the_compiler_passes_unrounded_values_on_to_the_expert_hidden(case_id: str) -> None:
    assert excess_by_operation(case_id, pin_rounding=False)["moe.expert_hidden"] > 1e4
