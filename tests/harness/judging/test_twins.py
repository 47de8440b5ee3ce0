from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.judging.twins import suspected, twins
from grok_conformance.harness.judging.verdict import OperationVerdict
from grok_conformance.harness.measure.comparison import Comparison

QUERY = OperationVerdict(
    operation="attention.query",
    fprop_dtype="bfloat16",
    status="pass",
    num_comparisons=1,
    worst_case="unequal/prefill/padded_batch.bfloat16",
    worst=Comparison(0, "layers.00.attention.query", 1),
    systematic=(),
    layers_at_fault=(),
    cases_at_fault=(),
    alternative="4 partial sums",
)
KEY = replace(QUERY, operation="attention.key", status="fail", alternative="", diagnosis=UNEXPLAINED)


def statuses(*rows: OperationVerdict) -> list[str]:
    return [row.status for row in suspected(rows, GROK_1)]


def test_what_passes_in_a_way_in_which_its_twin_fails_is_no_pass() -> None:
    found = suspected((QUERY, KEY), GROK_1)
    assert [row.status for row in found] == ["inconclusive", "fail"]
    assert found[0].worst.note.startswith("passes only with 4 partial sums, while attention.key, computed alike, fails")


def test_a_twin_that_passes_is_explained_or_fails_in_the_same_way_says_nothing() -> None:
    assert statuses(QUERY, replace(KEY, status="pass"))[0] == "pass"
    assert statuses(QUERY, replace(KEY, diagnosis=replace(UNEXPLAINED, resembles="zero")))[0] == "pass"
    assert statuses(QUERY, replace(KEY, diagnosis=replace(UNEXPLAINED, faults=("gqa_tiled",))))[0] == "pass"
    assert statuses(QUERY, replace(KEY, alternative="4 partial sums"))[0] == "pass"
    assert statuses(QUERY, replace(KEY, fprop_dtype="float32"))[0] == "pass"
    assert statuses(replace(QUERY, alternative=""), KEY)[0] == "pass"


def test_twins_are_made_by_one_function() -> None:
    assert twins("attention.query", GROK_1) == {"attention.key", "attention.value"}
    assert "final_norm" in twins("moe.norm", GROK_1)
    assert twins("router.logits", GROK_1) == set()
