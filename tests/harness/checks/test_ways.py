"""The search for ways: honest ports without an engine, each with rounding plans of its own, and ports with faults."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.checks.evidence import in_memory
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.moves import as_elsewhere, coarse, numbers_of_sums, permitted, with_ways
from grok_conformance.harness.checks.ways import functions_that_explain
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import Plans, evaluate
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, LIKE_THE_CACHE, SUMS, WEIGHTS, RoundingPlan
from tests.harness.checks.plan_ports import CASE, DECODE, KEPT, STRESS, WIDE, WIDE_SCALES, choose, passed, shown
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, honest_taps, taps_of


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
    wrong = replace(seen, given=in_memory(seen.raw * 1.01))
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


@pytest.mark.parametrize(
    "choices",
    [
        {"ranks": "2"},
        {"ranks": "3", "shares": "nearest", "sum": "as tree"},
        {"ranks": "3 of rounded", "shares": "in blocks of 16"},
        {"ranks": "3", "shares": "in scale groups"},
    ],
)
def test_shards_of_the_experts_are_identified_where_their_outputs_are_hidden(choices: dict[str, str]) -> None:
    plans: Plans = {"moe.output": RoundingPlan(choices)}
    exhibits, local = choose(shown(CASE, plans, hides=("moe.expert_output",)))
    assert passed(local)
    found = exhibits[0].ways.plans["moe.output"].choices
    assert {name: found.get(name, "evenly") for name in ("ranks", "shares")} == {"shares": "evenly"} | {
        name: choice for name, choice in choices.items() if name != "sum"
    }


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
    assert exhibits[0].ways.plans == {}  # though the outputs here are of right hidden values, which are not shown
    assert {row for _, row, _ in exhibits[0].ways.readings} == {"moe.expert_output"}
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


@pytest.mark.parametrize("shows", [("attention.heads",), ("logits",)])
def test_the_form_in_which_a_loader_keeps_all_weights_is_found_though_only_what_follows_is_shown(
    shows: tuple[str, ...],
) -> None:
    rows = [row.name for row in GROK_1.operations if WEIGHTS in row.points and row.block != "dense"]
    plans = dict.fromkeys(rows, RoundingPlan({"weights": "rounded"}))
    hides = [spec.operation for spec in GROK_1.taps if spec.operation not in shows]
    exhibits, local = choose(shown(WIDE, plans, hides))
    assert passed(local)
    found = list(exhibits[0].ways.plans.values())
    assert found
    assert found == [RoundingPlan({"weights": "rounded"})] * len(found)


@pytest.mark.parametrize(("fault", "names"), [(None, {"moe.expert_hidden"}), ("embedding_multiplier_missing", set())])
def test_functions_are_thought_of_one_by_one_where_all_of_them_at_once_explain_what_logits_show(
    fault: str | None, names: set[str]
) -> None:
    evaluator = evaluate if fault is None else mutant(FAULTS[fault])
    preset, case = golden_case(CASE)
    evidence = evidence_of(CASE, honest_taps(CASE, 31, evaluator=evaluator), ("logits",))
    told = [Exhibit(preset, case, evidence, exact_weights(preset.name, case.fprop_dtype))]
    found = {name for ways in functions_that_explain(GROK_1.by_name["logits"], Ways(), told) for name in ways.plans}
    assert names == found & {"moe.expert_hidden"}
