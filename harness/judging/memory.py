"""Finds ports that remember: what they return for drawn requests is what they gave, or what was stored, for others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from grok_conformance.harness.cases.drawn import drawn_as, stored_id
from grok_conformance.harness.contract import LOGITS, Array
from grok_conformance.harness.formats.tensors import digest
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged
from grok_conformance.harness.judging.verdict import PASSING, CaseVerdict
from grok_conformance.harness.running.answers import Answer

MEMORY = "memory"

Answers = Sequence[Mapping[str, Answer]]
"""Answers by case id, for each of some groups."""


def with_memory(judged: Sequence[Judged], groups: Sequence[Group], answers: Answers) -> list[Judged]:
    """Say of every drawn case that failed if its values are remembered ones.

    They are those of its stored twin, an earlier request of the same shape; or every stored case passes, its twin with
    the golden bits, and this one fails in a call that its twin has as well. A port that is right for some drawn case
    computes, and may well give those bits.
    """
    given = {case: answer for each in answers for case, answer in each.items()}
    golden = {case.id: group.expected for group in groups for case in group.cases}
    num_calls = {case.id: len(case.calls) for group in groups for case in group.cases}
    statuses = {verdict.case: verdict.status for each in judged for verdict in each.verdicts}

    drawn_well = any(each == "pass" and drawn_as(case) is not None for case, each in statuses.items())
    stored_badly = any(each not in PASSING and drawn_as(case) is None for case, each in statuses.items())
    computes = drawn_well or stored_badly

    def remembered(verdict: CaseVerdict) -> CaseVerdict:
        twin = stored_id(verdict.case)
        if verdict.status in PASSING or drawn_as(verdict.case) is None or statuses.get(twin) not in PASSING:
            return verdict
        first, stored = given[verdict.case].taps, given[twin].taps
        if first and all(key in stored and digest(first[key]) == digest(stored[key]) for key in logits_of(first)[:1]):
            reason = f"it gives the values of {twin}, an earlier request of the same shape"
            return replace(verdict, cause="history", reason=f"history: {reason}")
        expected = golden[twin](twin)
        shared = any(not one.passed and one.call < num_calls[twin] for one in verdict.comparisons)
        if shared and not computes and all(digest(stored[key]) == digest(expected[key]) for key in logits_of(stored)):
            reason = f"{twin} gave the golden values bit for bit, and with other tokens: {verdict.reason}"
            return replace(verdict, cause=MEMORY, reason=f"{MEMORY}: {reason}")
        return verdict

    return [replace(each, verdicts=tuple(map(remembered, each.verdicts))) for each in judged]


def logits_of(taps: Mapping[str, Array]) -> list[str]:
    """Return the keys of the logits among some taps, in the order of the calls."""
    return sorted(key for key in taps if key.partition("/")[2] == LOGITS)
