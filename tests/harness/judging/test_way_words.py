from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Ways
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.judging.way_words import ways_in_words
from tests.harness.judging.test_operations import port


def test_the_plan_of_a_hidden_operation_is_told_at_the_next_that_is_shown() -> None:
    exhibit = port(plans={})
    hidden = {key: seen for key, seen in exhibit.evidence.observed.items() if not key[1].endswith("moe.expert_hidden")}
    blind = replace(exhibit, evidence=replace(exhibit.evidence, observed=hidden))
    own = with_ways(blind, Ways({"moe.expert_hidden": RoundingPlan({"hidden": "rounded"})}))
    words = "gated hidden rounded to the compute dtype"
    assert ways_in_words([own]) == {"moe.expert_output": f"moe.expert_hidden, which is hidden: {words}"}
