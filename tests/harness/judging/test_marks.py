"""The marks of known faults, where single values that follow hidden operations show nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.faults import ALL_FAULTS, FAULTS, mutant
from grok_conformance.harness.graph.oracle import Plans, evaluate
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.judging.marks import marked, marking
from grok_conformance.harness.judging.operations import judge_operations
from tests.harness.honest_port import NUM_ELEMENTS, evidence_of, exact_weights, golden_case, honest_taps, taps_of

CASES = ("unequal/prefill/padded_batch", "unequal/decode/unequal_lengths", "unequal/chunked/two_chunks")
FLASH = ("attention.logits", "attention.weights")
KEPT: Plans = {"attention.logits": RoundingPlan({"query · key": "kept"})}


def ports(fault: str = "", plans: Plans | None = None, dtype: str = "bfloat16") -> list[Exhibit]:
    """Return what a port shows that hides its scores and attention weights, as flash attention does."""
    found = []
    for case_id in (f"{name}.{dtype}" for name in CASES):
        preset, case = golden_case(case_id)
        evaluator = mutant(ALL_FAULTS[fault]) if fault else evaluate
        shows = [tap for tap in taps_of(case_id) if not tap.endswith(FLASH)]
        evidence = evidence_of(case_id, honest_taps(case_id, 3, plans=plans, evaluator=evaluator), shows)
        found.append(Exhibit(preset, case, evidence, exact_weights(preset.name, dtype)))
    return found


def test_a_quantisation_whose_error_is_within_every_fence_leaves_its_mark() -> None:
    exhibits = ports("query_key_int8")
    local = {one.case.id: check_case(one, num_elements=NUM_ELEMENTS) for one in exhibits}
    assert all(c.passed for found in local.values() for c in found)
    found = judge_operations(exhibits, NUM_ELEMENTS)
    assert found.failing == {"attention.heads"}
    assert found.diagnoses["attention.heads"].faults == ("query_key_int8",)
    assert [c.operation for each in found.local.values() for c in each if not c.passed] == ["attention.heads"]


@pytest.mark.parametrize("plans", [None, KEPT])
def test_an_honest_port_has_no_mark(plans: Plans | None) -> None:
    assert not judge_operations(ports(plans=plans), NUM_ELEMENTS).failing


def test_marks_are_looked_for_behind_hidden_operations_in_narrow_dtypes_alone() -> None:
    wide = ports("query_key_int8", dtype="float32")
    local = {one.case.id: [replace(c, tail=0.0) for c in check_case(one, num_elements=NUM_ELEMENTS)] for one in wide}
    assert marked(wide, local)[1] == {}
    assert wide[0].is_behind_hidden("layers.00.attention.heads")
    assert not wide[0].is_behind_hidden("layers.00.attention.output")


def test_faults_that_honest_roundings_resemble_are_not_looked_for() -> None:
    asked = marking(ALL_FAULTS)
    assert {"query_key_int8", "cache_int8", "gelu_erf", "gates_renormalised"} <= set(asked)
    assert not {"gelu_bf16", "rope_bf16", "scores_bf16", "accumulated_in_bf16_every_8"} & set(asked)
    assert not {name for name, fault in FAULTS.items() if fault.harmless} & set(asked)
