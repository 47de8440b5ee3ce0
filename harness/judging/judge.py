"""Judges answers: every case by the local check, the end-to-end check and its routing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grok_conformance.harness.cases.case import Case, tap_key
from grok_conformance.harness.checks.exhibit import Exhibit, Ways, exhibit_of
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.graph.oracle import ExactWeights, evaluate
from grok_conformance.harness.judging.agreement import Agree, in_agreement, with_agreement
from grok_conformance.harness.judging.emulation import (
    JOINED,
    covering,
    diagnosed,
    emulating,
    unmasked,
    unseen,
    waive,
    waive_unseen,
)
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.operations import JudgedOperations, check_operations, judge_operations
from grok_conformance.harness.judging.quirks import (
    apart_from_quirks,
    quirks_among,
    strayed,
    wrong_in_other_rows,
)
from grok_conformance.harness.judging.verdict import CaseVerdict, case_status
from grok_conformance.harness.judging.waivers import Waiver, in_case
from grok_conformance.harness.judging.way_words import ways_in_words
from grok_conformance.harness.judging.whole_run import HonestRuns, WholeRun, needs_whole_run, whole_run
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.running.answers import Answer

OPTIONAL = "a call that the contract leaves open"
"""What excuses a candidate that declines an optional case."""


@dataclass(frozen=True)
class Judged:
    """The verdicts on one group, and what was found of each operation over all groups of its compute dtype.

    The ways of the group's preset, the diagnosis of each operation that failed, and by operation the way in which it is
    computed in `words`, where that is not as published.
    """

    verdicts: tuple[CaseVerdict, ...]
    ways: Ways
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Known:
    """What is known of a candidate from its first runs: its ways by preset and compute dtype.

    What does not pass in these is looked into, for other ways and for faults, in the cases `searched` alone.
    """

    ways: Mapping[tuple[str, str], Ways]
    searched: Collection[str]


def judge_candidate(
    groups: Sequence[Group],
    answers: Sequence[Mapping[str, Answer]],
    num_elements: int,
    honest_runs: HonestRuns,
    waivers: Sequence[Waiver] = (),
    agree: Agree = in_agreement,
    known: Known | None = None,
) -> list[Judged]:
    """Judge a candidate's answers to some groups; `waivers` are its deviations that are known, `known` its ways.

    Where an operation fails as the specification asks for it, its permitted ways are tried; one is chosen per operation
    and compute dtype over all groups, or none if none makes every case of every group pass.
    """
    ways = {} if known is None else known.ways
    pairs = list(zip(groups, answers, strict=True))
    exhibits = {one.case.id: one for group, answer in pairs for one in shown_in(group, answer)}
    judged: dict[str, JudgedOperations] = {}
    words: dict[str, dict[str, str]] = {}
    for dtype in dict.fromkeys(group.fprop_dtype for group in groups):
        own = [
            with_ways(one, ways.get((one.preset.name, dtype), Ways()))
            for one in exhibits.values()
            if one.evidence.config.fprop_dtype == dtype
        ]
        judged[dtype] = (
            judge_operations(own, num_elements)
            if known is None
            else check_operations(own, num_elements, known.searched)
        )
        words[dtype] = ways_in_words(judged[dtype].exhibits)
        exhibits |= {one.case.id: one for one in judged[dtype].exhibits}
    judged = with_agreement(judged, agree)
    results = []
    for group, answer in pairs:
        found, verdicts = judged[group.fprop_dtype], []
        for case in group.cases:
            waived = in_case(waivers, case.id)
            if case.id not in exhibits:
                verdicts.append(unanswered(case, answer[case.id], waived))
                continue
            one = exhibits[case.id]
            comparisons = waive_known(one, found.local[case.id], waived, found.diagnoses, num_elements)
            golden = group.expected(case.id)
            verdicts.append(judge_case(one, answer[case.id], comparisons, golden, honest_runs, num_elements, waived))
        results.append(judged_group(group, verdicts, found, words[group.fprop_dtype]))
    return results


def judged_group(
    group: Group, verdicts: Sequence[CaseVerdict], found: JudgedOperations, words: Mapping[str, str]
) -> Judged:
    """Return the verdicts on a group with the ways of its preset, and what was found, in words too, over its dtype."""
    own = [one.ways for one in found.exhibits if one.preset.name == group.preset.name]
    return Judged(tuple(verdicts), own[0] if own else Ways(), found.diagnoses, words)


def shown_in(group: Group, answers: Mapping[str, Answer]) -> list[Exhibit]:
    """Read what a candidate showed in every case of a group that it answered."""
    config = replace(group.preset.config, fprop_dtype=group.fprop_dtype)
    weights = ExactWeights(config, group.preset.weights, group.graph)
    return [
        exhibit_of(group.preset, case, answer.info, answer.taps, weights, answer.asked)
        for case in group.cases
        if (answer := answers[case.id]).status == "answered" and answer.info is not None
    ]


def waive_known(
    exhibit: Exhibit,
    comparisons: Sequence[Comparison],
    waivers: Sequence[Waiver],
    diagnoses: Mapping[str, Diagnosis],
    num_elements: int,
) -> Sequence[Comparison]:
    """Mark what known deviations waive, held against the oracle that has them.

    Where its operation is shown, the diagnosis must name the fault of a waiver; where it is not, nothing less than all
    such faults together may explain what fails behind it.
    """
    hidden = unseen(waivers, exhibit.evidence)
    known = diagnosed([waiver for waiver in waivers if waiver not in hidden], diagnoses)
    whole = replace(exhibit, evidence=unmasked(exhibit.evidence))

    def check(faulty: Sequence[Waiver], at_fault: Sequence[Comparison]) -> Sequence[Comparison]:
        rows = {exhibit.row_of(c) for c in at_fault}
        return check_case(whole, num_elements=num_elements, evaluator=emulating(faulty), only=rows)

    if known:
        covered = [c for c in comparisons if covering(known, c.tap)]
        comparisons = waive(comparisons, check(known, covered), known)
    failing = [c for c in comparisons if not c.passed]
    return waive_unseen(comparisons, hidden, lambda some: check((*known, *some), failing))


def unanswered(case: Case, answer: Answer, waivers: Sequence[Waiver]) -> CaseVerdict:
    """Return the verdict on a case without an answer, which may be known to be declined."""
    status = "error" if answer.status == "answered" else answer.status
    known = [waiver.name for waiver in waivers if status == "unsupported" and waiver.accepts(answer.reason)]
    known += [OPTIONAL] * (case.optional and status == "unsupported")
    return CaseVerdict(case=case.id, status=status, reason=answer.reason, waived=tuple(known[:1]))


def judge_case(
    exhibit: Exhibit,
    answer: Answer,
    comparisons: Sequence[Comparison],
    expected: Mapping[str, Array],
    honest_runs: HonestRuns,
    num_elements: int,
    waivers: Sequence[Waiver] = (),
) -> CaseVerdict:
    """Return the verdict on one answered case; the exact run has the known deviations that it showed."""
    case = exhibit.case
    told = {name for comparison in comparisons for name in comparison.waived.split(JOINED)}
    used = [waiver for waiver in waivers if waiver.name in told]
    whole = whole_run(exhibit, expected, used, honest_runs) if needs_whole_run(exhibit, used) else WholeRun(expected)
    status, reason = case_status(comparisons, whole.drifts, whole.flips, whole.routing)
    failing = [comparison for comparison in comparisons if not comparison.passed]
    blamed = failing or strayed(comparisons, whole.drifts, whole.flips, exhibit.evidence.graph.choice)
    quirks = quirks_among(exhibit, blamed)
    if status == "fail" and quirks and len(quirks) == len(blamed):  # what else fails is as wrong as anywhere
        apart = apart_from_quirks(exhibit)
        wrong = "" if apart is None else wrong_beside(apart, failing, expected, used, honest_runs, num_elements)
        status, reason = ("fail", f"rows without pads are wrong too: {wrong}") if wrong else ("quirk", reason)
    return CaseVerdict(
        case=case.id,
        status=status,
        reason=reason,
        comparisons=tuple(with_expected(comparison, whole.expected) for comparison in comparisons),
        drifts=whole.drifts,
        flips=whole.flips,
        routing=whole.routing,
        logits=whole.logits,
        margins=whole.margins,
        waived=tuple(waiver.name for waiver in used),
        quirks=tuple(tap_key(comparison.call, comparison.tap) for comparison in quirks),
        seconds=answer.seconds,
    )


def wrong_beside(
    apart: Exhibit,
    failing: Sequence[Comparison],
    expected: Mapping[str, Array],
    used: Sequence[Waiver],
    honest_runs: HonestRuns,
    num_elements: int,
) -> str:
    """Return what is wrong in the rows of a case that are `apart` from its quirks, empty if nothing is."""
    wrong = wrong_in_other_rows(apart, failing, num_elements, emulating(used) if used else evaluate)
    if wrong or not needs_whole_run(apart, used):
        return wrong
    beside = whole_run(apart, expected, used, honest_runs)
    status, reason = case_status((), beside.drifts, beside.flips, None)
    return reason if status == "fail" else ""


def with_expected(comparison: Comparison, expected: Mapping[str, Array]) -> Comparison:
    """Add the golden values at the elements that a comparison names; `expected` holds them by `call0/TAP`, if any."""
    key = tap_key(comparison.call, comparison.tap)
    if not comparison.index or comparison.problem or key not in expected:
        return comparison
    golden = expected[key]
    tokens = tuple(replace(token, expected=float(golden[token.index])) for token in comparison.tokens)
    return replace(comparison, expected=float(golden[comparison.index]), tokens=tokens)
