from __future__ import annotations

from pathlib import Path

import pytest

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
