"""The search for ways: honest ports without an engine, each with rounding plans of its own, and ports with faults."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.moves import as_elsewhere, coarse, numbers_of_sums, permitted, with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.ways import (
    Local,
    choose_ways,
    failing_together,
    fails,
    identify,
    telling,
)
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import Plans
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, LIKE_THE_CACHE, SUMS, RoundingPlan
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic
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


def test_nothing_is_looked_for_where_all_passes() -> None:
    exhibits, local = choose(shown(CASE))
    assert passed(local)
    assert [one.ways for one in exhibits] == [Ways()]


PLANS: dict[str, Plans] = {
    "q·k kept": KEPT,
    "expert output rounded": {"moe.expert_output": RoundingPlan({"result": "rounded"})},
    "gelu and hidden rounded": {"moe.expert_hidden": RoundingPlan({"gelu": "rounded", "hidden": "rounded"})},
    "gate times output rounded": {"moe.output": RoundingPlan({"terms": "rounded"})},
    "norm rounded before its gain": {"moe.norm": RoundingPlan({"normalised": "rounded"})},
    "table kept": {"logits": RoundingPlan({"table": "kept", "product": "kept"})},
    "multiplier folded into the head": {"logits": RoundingPlan({"multiplier": "table"})},
    "q scaled before the product": {"attention.logits": RoundingPlan({"scale": "query"})},
    "three partial sums": {"attention.query": RoundingPlan({"sums": "3 at once"})},
    "eight partial sums in turn": {"attention.output": RoundingPlan({"sums": "8 in turn"})},
    "sixteen partial sums around a ring": {"attention.output": RoundingPlan({"sums": "16 as ring"})},
    "a ring for the tokens": {"attention.output": RoundingPlan({"sums": "4 as ring by token"})},
    "a ring for the flat result": {"attention.output": RoundingPlan({"sums": "8 as flat ring"})},
}


@pytest.mark.parametrize("name", PLANS)
def test_a_rounding_plan_is_identified_to_the_last_choice(name: str) -> None:
    exhibits, local = choose(shown(CASE, PLANS[name]))
    assert passed(local)
    assert exhibits[0].ways == Ways(PLANS[name])


def test_a_plan_of_hidden_operations_is_identified_where_it_shows() -> None:
    flash = shown(STRESS, KEPT, hides=("attention.logits", "attention.weights"))
    exhibits, local = choose(flash)
    assert passed(local)
    assert exhibits[0].ways.plans.get("attention.logits", AS_PUBLISHED) == KEPT["attention.logits"]


def test_a_plan_belongs_to_the_stored_form_of_the_weights() -> None:
    rounded = {"moe.expert_hidden": RoundingPlan({"hidden": "rounded"})}
    exhibits, local = choose(shown(CASE, rounded), shown(WIDE_SCALES))
    assert passed(local)
    assert [one.ways.plans for one in exhibits] == [rounded, {}]


def test_a_plan_holds_for_all_data_of_a_form_or_is_not_chosen() -> None:
    exhibits, local = choose(shown(CASE, KEPT), shown(DECODE))
    assert [one.ways for one in exhibits] == [Ways(), Ways()]
    assert [c.operation for c in local[CASE] if not c.passed] == ["attention.logits"] * 2
    assert all(c.passed for c in local[DECODE])


def test_a_fault_is_explained_by_no_plan_and_keeps_its_published_figures() -> None:
    port = shown(CASE)
    key = (0, "layers.01.moe.expert_hidden")
    seen = port.evidence.observed[key]
    wrong = replace(seen, raw=seen.raw * 1.01, cleaned=seen.cleaned * 1.01)
    exhibits, local = choose(
        replace(port, evidence=replace(port.evidence, observed={**port.evidence.observed, key: wrong}))
    )
    assert {c.tap for c in local[CASE] if not c.passed} >= {key[1]}
    assert exhibits[0].ways.plans.get("moe.expert_hidden") is None


# What may be tried


def test_narrow_choices_mean_nothing_in_float32_and_a_dtype_needs_such_a_cache() -> None:
    narrow, wide = shown(CASE), shown(WIDE)
    assert permitted(SUMS, "2 at once", "attention.output", [narrow])
    assert not permitted(SUMS, "2 at once", "attention.output", [wide])
    assert not permitted(LIKE_THE_CACHE, "float16", "attention.logits", [narrow])
    preset, case = golden_case(CASE)
    evidence = evidence_of(
        CASE,
        honest_taps(CASE, 7, dtypes={"kv.keys": "float16", "kv.values": "float16"}),
        dtypes={"layers.*.kv.*": "float16"},
    )
    cached = Exhibit(preset, case, evidence, narrow.weights)
    assert permitted(LIKE_THE_CACHE, "float16", "attention.logits", [cached])


def test_one_change_is_made_at_a_time_and_partial_sums_come_last() -> None:
    row, port = GROK_1.by_name["attention.output"], shown(CASE)
    first = list(coarse(row, Ways(), [port]))
    assert all(len(ways.plans) + bool(ways.readings) == 1 for ways in first)
    assert {tuple(plan.choices) for ways in first for plan in ways.plans.values()} == {
        ("weights",),
        ("operands",),
    }
    assert {
        tuple(plan.choices) for ways in numbers_of_sums("at once")(row, Ways(), [port]) for plan in ways.plans.values()
    } == {("sums",)}


def test_settled_plans_of_hidden_rows_are_not_changed_again() -> None:
    row = GROK_1.by_name["attention.heads"]
    port = shown(CASE, hides=("attention.logits", "attention.weights"))
    changed = {name for ways in coarse(row, Ways(), [port]) for name in ways.plans}
    assert changed == {"attention.logits", "attention.heads"}
    settled = with_ways(port, Ways(KEPT))
    assert "attention.logits" not in {name for ways in coarse(row, Ways(), [settled]) for name in ways.plans}


def test_around_many_hidden_taps_nothing_is_looked_for() -> None:
    preset, case = golden_case(CASE)
    blind = Exhibit(preset, case, evidence_of(CASE, honest_taps(CASE, 7), ["logits"]), shown(CASE).weights)
    assert identify(GROK_1.by_name["logits"], [blind]) == Ways()


# What all taps of a row have in common


def of_ratio(call: int, tap: str, ratio: float, *systematic: Systematic) -> Comparison:
    return Comparison(call, tap, 10, tail=ratio, systematic=systematic)


def in_common(score: float) -> Systematic:
    return Systematic("gain", coefficient=score, standard_error=1.0, floor=0.0, information=1.0, allowed=1.0)


@pytest.mark.parametrize(("score", "expected"), [(0.99, False), (1.0, False), (1.01, True), (2.5, True)])
def test_what_is_in_common_fails_beyond_what_is_allowed(score: float, *, expected: bool) -> None:
    port = shown(CASE)
    local = {CASE: [of_ratio(0, "layers.00.attention.weights", 0.5, in_common(score))]}
    assert failing_together([port], local) == ({"attention.weights"} if expected else set())
    assert fails("attention.weights", [port], local) == expected


def test_no_way_gives_back_a_tap_that_is_missing() -> None:
    port = shown(CASE)
    local = {CASE: [Comparison(0, "layers.00.attention.logits", 0, problem="missing")]}
    assert not fails("attention.logits", [port], local)
    assert telling("attention.logits", [port], local) == []


def test_cases_in_which_a_row_fails_tell_before_larger_ones_in_which_it_passes() -> None:
    ports: Sequence[Exhibit] = [shown(CASE), shown(DECODE)]
    tap = "layers.00.attention.logits"
    local = {CASE: [of_ratio(0, tap, 0.5)] * 3, DECODE: [of_ratio(0, tap, 7.0)]}
    assert [one.case.id for one in telling("attention.logits", ports, local)] == [DECODE, CASE]
    assert np.isfinite(local[CASE][0].ratio)


def test_an_approximation_is_named_only_where_it_explains_what_no_rounding_does() -> None:
    row, port = GROK_1.by_name["moe.expert_hidden"], shown(STRESS)
    key = (0, "layers.00.moe.expert_hidden")
    seen, activation = port.evidence.observed[key], port.evidence.observed[0, "layers.00.moe.expert_activation"].raw
    up = port.evidence.observed[0, "layers.00.moe.expert_up"].raw
    tanh = np.tanh(np.sqrt(2 / np.pi) * (activation + 0.044715 * activation**3))
    off = 0.5 * activation * up * tanh * 2.0**-11.5 * np.sign(np.sin(1e4 * activation))
    observed = {**port.evidence.observed, key: replace(seen, raw=seen.raw + off, cleaned=seen.cleaned + off)}
    found = identify(row, [replace(port, evidence=replace(port.evidence, observed=observed))])
    assert found == Ways({"moe.expert_hidden": RoundingPlan({"tanh": "approximate"})})
    assert identify(row, [port]) == Ways()


def test_shards_of_the_experts_are_identified_where_their_outputs_are_hidden() -> None:
    plans: Plans = {"moe.output": RoundingPlan({"ranks": "2"})}
    exhibits, local = choose(shown(CASE, plans, hides=("moe.expert_output",)))
    assert passed(local)
    assert exhibits[0].ways.plans["moe.output"].choices["ranks"] == "2"


def test_roundings_that_only_together_explain_a_row_are_found() -> None:
    plans: Plans = {"logits": RoundingPlan({"table": "kept", "product": "kept", "multiplier": "kept"})}
    exhibits, local = choose(shown(CASE, plans))
    assert passed(local)
    assert exhibits[0].ways == Ways(plans)


def test_a_wrong_constant_is_no_approximated_function_though_it_errs_by_less() -> None:
    preset, case = golden_case(WIDE)
    taps = dict(honest_taps(WIDE, 7))
    for key in [key for key in taps if key.endswith("moe.expert_activation")]:
        x = taps[key].astype(np.float64)
        wrong = x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.0447 * x**3)))
        up, hidden = key.replace("activation", "up"), key.replace("activation", "hidden")
        taps[hidden] = (wrong * taps[up]).astype(np.float32)
    evidence = evidence_of(WIDE, taps, taps_of(WIDE))
    exhibits, local = choose(Exhibit(preset, case, evidence, exact_weights(preset.name, "float32")))
    assert exhibits[0].ways == Ways()
    assert "moe.expert_hidden" in {c.operation for found in local.values() for c in found if not c.passed}


def test_the_plan_of_another_stored_form_is_tried_before_partial_sums_are_searched() -> None:
    plan = RoundingPlan({"sums": "16 as ring, evenly"})
    row = shown(CASE).evidence.graph.by_name["attention.output"]
    tried = list(as_elsewhere([plan])(row, Ways(), [shown(CASE)]))
    assert tried == [Ways({"attention.output": plan})]
    settled = replace(shown(CASE), ways=Ways({"attention.output": plan}))
    assert not list(as_elsewhere([plan])(row, Ways(), [settled]))


def test_an_expert_output_rounded_under_float32_scales_is_no_fault_of_products() -> None:
    rounded = {"moe.expert_output": RoundingPlan({"result": "rounded"})}
    exhibits, local = choose(shown(WIDE_SCALES, rounded))
    assert passed(local)
    assert exhibits[0].ways.plans == rounded
