"""Honest ports without an engine, each with rounding plans of its own, and what is found of them."""

from __future__ import annotations

from collections.abc import Collection

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.local import Local
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.ways import choose_ways
from grok_conformance.harness.graph.oracle import Plans
from grok_conformance.harness.graph.rounding import RoundingPlan
from tests.harness.honest_port import NUM_ELEMENTS, evidence_of, exact_weights, golden_case, honest_taps, taps_of

CASE = "unequal/prefill/padded_batch.bfloat16"
DECODE = "unequal/decode/unequal_lengths.bfloat16"
WIDE_SCALES = "float32_scales/prefill/wide_experts.bfloat16"
STRESS = "stress/prefill/saturated_cap.bfloat16"
WIDE = "unequal/prefill/padded_batch.float32"

KEPT = {"attention.logits": RoundingPlan({"query · key": "kept"})}


def shown(case_id: str, plans: Plans | None = None, hides: Collection[str] = ()) -> Exhibit:
    preset, case = golden_case(case_id)
    patterns = [tap for tap in taps_of(case_id) if not any(tap.endswith(name) for name in hides)]
    evidence = evidence_of(case_id, honest_taps(case_id, 7, plans=plans), patterns)
    return Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))


def choose(*exhibits: Exhibit) -> tuple[list[Exhibit], Local]:
    local = {one.case.id: check_case(one, num_elements=NUM_ELEMENTS) for one in exhibits}
    return choose_ways(exhibits, local, NUM_ELEMENTS)


def passed(local: Local) -> bool:
    return all(comparison.passed for comparisons in local.values() for comparison in comparisons)
