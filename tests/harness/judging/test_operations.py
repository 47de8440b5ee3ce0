"""Operations of one compute dtype are judged together: what fails is found, and likely faults are named."""

from __future__ import annotations

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.judging.operations import judge_operations
from tests.harness.honest_port import NUM_ELEMENTS, evidence_of, exact_weights, golden_case, honest_taps

CASES = ("unequal/prefill/padded_batch.float32", "unequal/prefill/single_token.float32")


def exhibits(fault: str = "") -> list[Exhibit]:
    evaluator = mutant(FAULTS[fault]) if fault else evaluate
    made = []
    for case_id in CASES:
        preset, case = golden_case(case_id)
        evidence = evidence_of(case_id, honest_taps(case_id, 1, evaluator=evaluator))
        made.append(Exhibit(preset, case, evidence, exact_weights(preset.name, "float32")))
    return made


def test_an_honest_port_has_nothing_to_be_diagnosed() -> None:
    found = judge_operations(exhibits(), NUM_ELEMENTS)
    assert (found.failing, found.noted, dict(found.diagnoses)) == (frozenset(), frozenset(), {})
    assert list(found.local) == list(CASES)


def test_a_fault_fails_at_its_operation_alone_and_is_named() -> None:
    found = judge_operations(exhibits("norm_scale_plus_one"), NUM_ELEMENTS)
    assert found.failing == frozenset(FAULTS["norm_scale_plus_one"].operations)
    assert {found.diagnoses[name].likeliest for name in found.failing} == {"norm_scale_plus_one"}
