"""Operations of one compute dtype are judged together: what fails is found, likely faults and other roundings named."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.cases.probes import make_probe, probe_cases
from grok_conformance.harness.checks.evidence import in_memory
from grok_conformance.harness.checks.exhibit import Exhibit, Ways, exhibit_of
from grok_conformance.harness.checks.local import Local
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import CandidateInfo
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.probe_design import emulated, in_form
from grok_conformance.harness.diagnosis.transformations import KEEP_OPERANDS
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.graph.oracle import ExactWeights, Plans, evaluate
from grok_conformance.harness.graph.rounding import Calls, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.judging import operations
from grok_conformance.harness.judging.operations import JudgedOperations, judge_operations, much_nearer, resembling
from grok_conformance.harness.judging.way_words import ways_in_words
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.histogram import EDGES
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


UNKNOWN = Diagnosis((), "", 0.0, 0.0, 0.0, 0.0, "no fault")


def test_an_honest_port_has_nothing_to_be_diagnosed() -> None:
    found = judge_operations(exhibits(), NUM_ELEMENTS)
    assert (found.failing, found.noted, dict(found.diagnoses)) == (frozenset(), frozenset(), {})
    assert list(found.local) == list(CASES)


def test_a_fault_fails_at_its_operation_alone_and_is_named() -> None:
    found = judge_operations(exhibits("norm_scale_plus_one"), NUM_ELEMENTS)
    assert found.failing == frozenset(FAULTS["norm_scale_plus_one"].operations)
    assert {found.diagnoses[name].likeliest for name in found.failing} == {"norm_scale_plus_one"}


def test_what_was_never_returned_fails_and_is_not_diagnosed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()

    def diagnosed(one: Sequence[Exhibit], local: Local, names: Collection[str]) -> dict[str, Diagnosis]:
        asked.update(names)
        return known(one, local, names)

    known = operations.diagnosed
    monkeypatch.setattr(operations, "diagnosed", diagnosed)
    preset, case = golden_case(CASES[1])
    shown = {"call0/logits": honest_taps(CASES[1], 1)["call0/logits"] + 1}
    one = Exhibit(preset, case, evidence_of(CASES[1], shown), exact_weights(preset.name, "float32"))
    found = judge_operations([one], NUM_ELEMENTS)
    assert asked == {"logits"}
    assert {"embedding", "moe.output", "logits"} <= found.failing


# Ports that round elsewhere, and may have a fault besides

CASE = "stress/prefill/saturated_cap.bfloat16"

TRANSFORMERS: Plans = {
    "moe.expert_hidden": RoundingPlan({"gelu": "rounded", "hidden": "rounded"}),
    "moe.expert_output": RoundingPlan({"result": "rounded"}),
    "moe.norm": RoundingPlan({"normalised": "rounded"}),
    "attention.logits": RoundingPlan({"query · key": "kept"}),
}


def port(fault: str = "", plans: Plans = TRANSFORMERS) -> Exhibit:
    preset, case = golden_case(CASE)
    evaluator = mutant(FAULTS[fault]) if fault else evaluate
    evidence = evidence_of(CASE, honest_taps(CASE, 3, plans=plans, evaluator=evaluator))
    return Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))


def test_a_port_that_rounds_elsewhere_passes_with_its_plan_in_words() -> None:
    found = judge_operations([port()], NUM_ELEMENTS)
    assert not found.failing
    assert ways_in_words(found.exhibits) == {
        "moe.norm": "normalised value rounded before the gain",
        "moe.expert_hidden": "gelu rounded to the compute dtype, gated hidden rounded to the compute dtype",
        "moe.expert_output": "result rounded to the compute dtype, as a bf16 GEMM gives",
        "attention.logits": "q·k not rounded before it is scaled",
    }


@pytest.mark.parametrize(
    ("fault", "operation"),
    [("gelu_erf", "moe.expert_hidden"), ("norm_scale_plus_one", "moe.norm"), ("attention_cap_50", "attention.logits")],
)
def test_a_fault_in_a_port_that_rounds_elsewhere_is_found_and_named(fault: str, operation: str) -> None:
    found = judge_operations([port(fault)], NUM_ELEMENTS)
    assert operation in found.failing
    assert fault in found.diagnoses[operation].faults


def test_what_hides_in_an_approximation_that_was_refused_fails_and_is_named() -> None:
    case_id, hidden = CASES[0], "moe.expert_hidden"
    right, erf = (honest_taps(case_id, 1, evaluator=each) for each in (evaluate, mutant(FAULTS["gelu_erf"])))
    first = [tap for tap in right if tap.endswith(f"00.{hidden}")]  # later layers have other inputs
    taps = dict(right)
    for tap in first:
        taps[tap] = np.where([[[[False], [True]]]], erf[tap], right[tap])
    preset, case = golden_case(case_id)
    one = Exhibit(preset, case, evidence_of(case_id, taps), exact_weights(preset.name, "float32"))
    found = judge_operations([one], NUM_ELEMENTS)
    assert f"layers.00.{hidden}" in [c.tap for c in found.local[case_id] if not c.passed]
    assert found.diagnoses[hidden].faults == ("gelu_erf",)


def test_a_cap_that_is_missing_where_one_token_is_decoded_hides_in_no_approximated_tanh() -> None:
    case_id = "unequal/decode/unequal_lengths.bfloat16"
    faulty = mutant(FAULTS["attention_cap_missing"])

    def in_decode(tap: str, scope: Scope, weights: ExactWeights, values: Any, plan: RoundingPlan) -> Exact:
        return (faulty if scope.tokens.shape[1] == 1 else evaluate)(tap, scope, weights, values, plan)

    kept: Plans = {"attention.logits": RoundingPlan({"query · key": "kept"})}
    preset, case = golden_case(case_id)
    taps = honest_taps(case_id, 1, evaluator=in_decode, plans=kept)
    one = Exhibit(preset, case, evidence_of(case_id, taps), exact_weights(preset.name, "bfloat16"))
    found = judge_operations([one], NUM_ELEMENTS)
    assert found.failing == {"attention.logits"}
    assert "attention_cap_missing" in found.diagnoses["attention.logits"].faults


def test_values_that_are_not_finite_have_no_likely_fault() -> None:
    one = port()
    key = (0, "layers.00.moe.expert_hidden")
    seen = one.evidence.observed[key]
    raw = seen.raw.copy()
    raw[0, 0] = float("nan")
    broken = replace(one.evidence, observed={**one.evidence.observed, key: replace(seen, given=in_memory(raw))})
    found = judge_operations([replace(one, evidence=broken)], NUM_ELEMENTS)
    assert "moe.expert_hidden" in found.failing
    assert "moe.expert_hidden" not in found.diagnoses


# Probes judged by their logits alone, where more is shown and nothing fails


def shown_of_a_probe(fault: str = "") -> Exhibit:
    preset = make_probe("probe_moe")
    (case,) = probe_cases("probe_moe/*.bfloat16")
    weights = ExactWeights(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    taps = emulated(preset, case, weights, mutant(FAULTS[fault]) if fault else evaluate, seed=1)
    info = CandidateInfo(name="port", version="", taps=("layers.*.output", "layers.*.router.logits", "logits"))
    return exhibit_of(preset, case, info, in_form(taps, case, info), weights)


def test_what_hidden_states_pass_over_is_judged_by_the_logits_of_a_probe_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = shown_of_a_probe("router_in_bf16")
    local = {one.case.id: check_case(one, num_elements=NUM_ELEMENTS)}
    assert all(comparison.passed for comparison in local[one.case.id])
    passed = JudgedOperations((one,), local, frozenset(), frozenset(), {})
    judged = replace(passed, failing=frozenset({"logits"}))  # naming it takes minutes; RATES.md tells how often it is
    monkeypatch.setattr(operations, "judge_core", lambda alone, own, _: replace(judged, exhibits=alone, local=own))
    found = operations.by_logits_alone(passed, NUM_ELEMENTS)
    assert found.failing == {"logits"}
    assert list(found.exhibits[0].evidence.observed) == [(0, "logits")]
    assert [c.tap for c in found.local[one.case.id] if not c.passed] == ["logits"]


def test_an_honest_port_passes_by_all_that_it_shows_and_by_its_logits_alone() -> None:
    one = shown_of_a_probe()
    found = judge_operations([one], NUM_ELEMENTS)
    assert not found.failing
    assert len(found.exhibits[0].evidence.observed) == len(one.evidence.observed)
    assert all(c.passed for c in check_case(one.logits_alone(), num_elements=NUM_ELEMENTS))


def test_a_way_that_shows_slightly_in_a_quirk_alone_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other cases leave it within their fences; the one of the quirk tells it, and all are judged in it."""
    quirk = "unequal/decode/pads_in_cache.float32"
    plans: Plans = {"attention.norm": RoundingPlan({"root": "approximate"})}
    checked = check_case

    def slightly(one: Exhibit, **options: Any) -> list[Comparison]:
        found = checked(one, **options)
        plain = one.ways == Ways() and one.case.id == quirk
        return [replace(c, bulk=1.1) if plain and c.operation == "attention.norm" else c for c in found]

    preset, case = golden_case(quirk)
    evidence = evidence_of(quirk, honest_taps(quirk, 1))
    one = Exhibit(preset, case, evidence, exact_weights(preset.name, "float32"))
    assert one.quirk
    asked: list[set[str]] = []

    def chosen(found: list[Exhibit], local: Local, _num_elements: int) -> tuple[list[Exhibit], Local]:
        asked.append({each.case.id for each in found})
        return [with_ways(each, Ways(plans)) for each in found], local

    monkeypatch.setattr(operations, "check_case", slightly)
    honest = exhibits()
    assert judge_operations(honest, NUM_ELEMENTS).exhibits[0].ways == Ways()
    nothing = JudgedOperations((), {}, frozenset(), frozenset(), {})
    monkeypatch.setattr(
        operations, "seen_to_fail", lambda found, local, _: replace(nothing, exhibits=tuple(found), local=local)
    )
    monkeypatch.setattr(operations, "choose_ways", chosen)
    found = judge_operations([*honest, one], NUM_ELEMENTS)
    assert asked == [{*CASES, quirk}]
    assert all(each.ways == Ways(plans) for each in found.exhibits)
    assert all(c.passed for each in found.local.values() for c in each)


def test_a_way_of_calls_that_a_quirk_alone_has_is_looked_for() -> None:
    """Its error is far beyond the fences, in operations that the quirk does not touch."""
    core, quirk = "unequal/prefill/padded_batch.bfloat16", "unequal/decode/pads_in_cache.bfloat16"
    plans: Plans = {"attention.query": RoundingPlan({"weights": "kept"}, Calls("t", 1))}
    made = []
    for case_id in (core, quirk):
        preset, case = golden_case(case_id)
        evidence = evidence_of(case_id, honest_taps(case_id, 1, plans=plans))
        made.append(Exhibit(preset, case, evidence, exact_weights(preset.name, "bfloat16")))
    assert [one.quirk for one in made] == [False, True]
    found = judge_operations(made, NUM_ELEMENTS)
    assert [one.ways.plans for one in found.exhibits] == [plans, plans]
    assert all(c.passed for each in found.local.values() for c in each)


def test_a_way_that_makes_far_more_values_right_is_nearer_though_the_worst_is_as_bad() -> None:
    def checked(ratio: float, num_beyond: int) -> Local:
        counts = (100 - num_beyond, *[0] * (EDGES.index(1.0)), num_beyond)
        return {"case": [Comparison(0, "logits", 100, tail=ratio, histogram=counts)]}

    assert much_nearer("logits", checked(50.0, 4), checked(50.0, 90))
    assert much_nearer("logits", checked(5.0, 90), checked(50.0, 90))
    assert not much_nearer("logits", checked(50.0, 60), checked(50.0, 90))
    assert not much_nearer("router.logits", checked(5.0, 4), checked(50.0, 90))


@pytest.mark.parametrize(("remedy", "expected"), [("look for the index", True), (KEEP_OPERANDS, False)])
def test_that_values_are_right_for_rounded_operands_is_left_to_another_way(
    remedy: str, monkeypatch: pytest.MonkeyPatch, *, expected: bool
) -> None:
    told = replace(UNKNOWN, resembles="right for something", remedy=remedy)
    monkeypatch.setattr(operations, "with_places", lambda *_: {"logits": told})
    assert resembling("logits", [], {}) == expected
