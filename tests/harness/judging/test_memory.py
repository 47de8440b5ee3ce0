from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.graph.oracle import ExactWeights
from grok_conformance.harness.judging.groups import Group, with_drawn
from grok_conformance.harness.judging.judge import Judged, judge_candidate
from grok_conformance.harness.judging.memory import with_memory
from grok_conformance.harness.running.answers import Answer
from tests.harness.honest_port import NUM_ELEMENTS, answered, exact_weights, golden_taps, group_of, noisy_taps

CASE = "unequal/prefill/single_token.float32"


def judged(given: dict[str, Answer], groups: tuple[Group, ...]) -> Judged:
    answers = [{case.id: given[case.id] for case in group.cases} for group in groups]
    found = judge_candidate(groups, answers, NUM_ELEMENTS, {})
    return with_memory(found, groups, answers)[0]


@pytest.mark.parametrize(
    ("stored", "drawn", "cause"),
    [("honest", "honest", ""), ("honest", "stored", "history"), ("golden", "zeros", "memory"), ("honest", "zeros", "")],
)
def test_a_drawn_case_that_fails_is_told_from_which_memory_it_came(
    stored: str, drawn: str, cause: str, tmp_path: Path
) -> None:
    groups = with_drawn([group_of(CASE)], 7)[:1]
    case, twin = groups[0].cases
    weights = exact_weights(groups[0].preset.name, case.fprop_dtype)
    shown, honest = (noisy_taps(groups[0].preset, each, weights, 31) for each in (case, twin))
    first = {"honest": shown, "golden": dict(golden_taps(CASE))}[stored]
    second = {
        "honest": honest,
        "stored": {key: first.get(key, x) for key, x in honest.items()},
        "zeros": {key: x * 0 for key, x in honest.items()},
    }[drawn]
    given = {case.id: answered(tmp_path / "first", first), twin.id: answered(tmp_path / "second", second)}
    verdicts = judged(given, groups).verdicts
    assert [verdict.status == "pass" for verdict in verdicts] == [True, drawn == "honest"]
    assert [verdict.cause for verdict in verdicts] == ["", cause]
    assert verdicts[1].reason.startswith(cause)


def test_a_port_that_fails_where_its_twin_has_no_call_is_not_accused(tmp_path: Path) -> None:
    """What is wrong from the second position on leaves the first as golden as an honest port's."""
    groups = with_drawn([group_of(CASE)], 7)[:1]
    case, twin = groups[0].cases
    assert len(twin.calls) > len(case.calls)
    honest = noisy_taps(groups[0].preset, twin, exact_weights(groups[0].preset.name, case.fprop_dtype), 31)
    later = {key: x * (0 if int(key[4]) >= len(case.calls) else 1) for key, x in honest.items()}
    given = {
        case.id: answered(tmp_path / "first", dict(golden_taps(CASE))),
        twin.id: answered(tmp_path / "second", later),
    }
    assert [(verdict.status, verdict.cause) for verdict in judged(given, groups).verdicts] == [
        ("pass", ""),
        ("fail", ""),
    ]


def test_a_port_that_is_right_for_another_drawn_case_computes_and_is_not_accused(tmp_path: Path) -> None:
    other = "unequal/prefill/padded_batch.float32"
    groups = with_drawn([group_of(CASE), group_of(other)], 7)
    given: dict[str, Answer] = {}
    for group in groups:
        for each in group.cases:
            config = replace(group.preset.config, fprop_dtype=each.fprop_dtype)
            weights = ExactWeights(config, group.preset.weights)
            honest = noisy_taps(group.preset, each, weights, 31)
            wrong = {key: x * 0 for key, x in honest.items()}
            taps = dict(golden_taps(CASE)) if each.id == CASE else wrong if each.id.startswith(CASE[:-8]) else honest
            given[each.id] = answered(tmp_path / each.id.replace("/", "_"), taps)
    answers = [{case.id: given[case.id] for case in group.cases} for group in groups]
    verdicts = [
        verdict for each in with_memory(judge_candidate(groups, answers, NUM_ELEMENTS, {}), groups, answers)
        for verdict in each.verdicts
    ]  # fmt: skip
    failing = [verdict for verdict in verdicts if verdict.status == "fail"]
    assert failing
    assert {verdict.cause for verdict in failing} == {""}
