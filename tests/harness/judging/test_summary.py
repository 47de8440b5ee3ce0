"""What is said of a candidate over all its groups."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Ways
from grok_conformance.harness.contract import LogitForm
from grok_conformance.harness.judging.judge import Judged
from grok_conformance.harness.judging.summary import powers_of, summarise, without_open
from grok_conformance.harness.judging.verdict import CaseVerdict
from grok_conformance.harness.running.answers import Answer
from tests.harness.honest_port import INFO, group_of

STRESS = "stress/prefill/saturated_cap.float32"


def verdict(case_id: str) -> CaseVerdict:
    return CaseVerdict(case=case_id, status="pass")


def answer(*patterns: str) -> Answer:
    return Answer(status="answered", info=replace(INFO, taps=patterns))


def test_a_candidates_level_is_the_lowest_of_all_presets() -> None:
    dense = group_of("dense/decode/dense_block.float32")
    moe = group_of(STRESS)
    answers = [{case.id: answer("logits") for case in group.cases} for group in (dense, moe)]
    judged = [Judged(tuple(verdict(case.id) for case in group.cases), Ways()) for group in (dense, moe)]
    assert summarise("port", [dense], answers[:1], judged[:1], 1.0).level == "routes"
    both = summarise("port", [dense, moe], answers, judged, 1.0)
    assert (both.level, both.status, both.version) == ("logits", "pass", "1")
    assert [case.case for case in both.cases] == ["dense/decode/dense_block.float32", STRESS]


def test_a_candidate_that_never_says_who_it_is_has_no_level() -> None:
    group = group_of(STRESS)
    refused = Judged((CaseVerdict(case=STRESS, status="unsupported"),), Ways())
    found = summarise("port", [group], [{STRESS: Answer(status="unsupported")}], [refused], 1.0)
    assert (found.level, found.status) == ("none", "unsupported")


def test_power_is_told_of_golden_cases_and_of_probes_to_those_that_show_little() -> None:
    tokens = replace(INFO, taps=("logits",), logits=LogitForm(kind="tokens"))
    dtypes = {STRESS: "float32", "probe_moe/prefill/rows.float32": "float32"}
    assert [power.probes for power in powers_of(tokens, "logits", dtypes)] == ["", "greedy tokens"]
    assert [power.probes for power in powers_of(INFO, "caches", dtypes)] == [""]


def test_cases_that_stay_open_do_not_count_where_most_others_pass() -> None:
    passed, still_open = CaseVerdict(case="a", status="pass"), CaseVerdict(case="b", status="inconclusive")
    assert [case.does_not_count for case in without_open((passed, passed, still_open))] == [False, False, True]
    assert not any(case.does_not_count for case in without_open((passed, still_open)))
    failed = CaseVerdict(case="c", status="fail")
    assert not any(case.does_not_count for case in without_open((failed, failed, still_open)))
