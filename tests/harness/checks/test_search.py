"""The search for the ways of one row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.checks.evidence import in_memory
from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.moves import numbers_of_sums
from grok_conformance.harness.checks.search import MANY, identify, promising
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.graph.rounding import HARDWARE_TANH, RoundingPlan
from tests.harness.checks.plan_ports import CASE, STRESS, shown
from tests.harness.honest_port import evidence_of, golden_case, honest_taps


def test_around_many_hidden_taps_nothing_is_looked_for() -> None:
    preset, case = golden_case(CASE)
    taps = honest_taps(CASE, 7, plans={"attention.query": RoundingPlan({"sums": "8 in turn"})})
    blind = Exhibit(preset, case, evidence_of(CASE, taps, ["logits"]), shown(CASE).weights)
    assert identify(GROK_1.by_name["logits"], [blind]) == Ways()


def test_many_changes_are_weighed_in_the_case_that_is_worst_and_few_go_on() -> None:
    row, plan = GROK_1.by_name["attention.query"], RoundingPlan({"sums": "5 at once"})
    told = [shown(STRESS), shown(CASE, {row.name: plan})]  # only the second shows anything
    changed = list(numbers_of_sums("at once")(row, Ways(), told))
    kept = promising(row, told, evaluate, Ways(), changed)
    assert len(changed) > len(kept) == MANY
    assert Ways({row.name: plan}) == kept[0]
    assert promising(row, told, evaluate, Ways(), changed[:MANY]) == changed[:MANY]


def test_an_approximation_is_named_only_where_it_explains_what_no_rounding_does() -> None:
    row, port = GROK_1.by_name["moe.expert_hidden"], shown(STRESS)
    key = (0, "layers.00.moe.expert_hidden")
    seen, activation = port.evidence.observed[key], port.evidence.observed[0, "layers.00.moe.expert_activation"].raw
    up = port.evidence.observed[0, "layers.00.moe.expert_up"].raw
    tanh = np.tanh(np.sqrt(2 / np.pi) * (activation + 0.044715 * activation**3))
    off = 0.5 * activation * up * tanh * 2.0**-11.5 * np.sign(np.sin(1e4 * activation))
    observed = {**port.evidence.observed, key: replace(seen, given=in_memory(seen.raw + off))}
    found = identify(row, [replace(port, evidence=replace(port.evidence, observed=observed))])
    assert found == Ways({"moe.expert_hidden": RoundingPlan({"tanh": HARDWARE_TANH})})
    assert identify(row, [port]) == Ways()
