"""The search for the ways of one row."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit, Ways
from grok_conformance.harness.checks.search import identify
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.rounding import RoundingPlan
from tests.harness.checks.plan_ports import CASE, STRESS, shown
from tests.harness.honest_port import evidence_of, golden_case, honest_taps


def test_around_many_hidden_taps_nothing_is_looked_for() -> None:
    preset, case = golden_case(CASE)
    blind = Exhibit(preset, case, evidence_of(CASE, honest_taps(CASE, 7), ["logits"]), shown(CASE).weights)
    assert identify(GROK_1.by_name["logits"], [blind]) == Ways()


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
