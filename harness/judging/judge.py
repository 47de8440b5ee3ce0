"""Judges answers: every case by the local check, the end-to-end check and its routing."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from grok_conformance.harness.cases.case import Case, tap_key
from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.checks.end_to_end import Drift, Flip, Honest, drifts, flips, honest_run, route_of
from grok_conformance.harness.checks.exhibit import Exhibit, Ways, exhibit_of
from grok_conformance.harness.checks.flips import FlipCount, count_flips
from grok_conformance.harness.checks.logit_agreement import (
    LogitAgreement,
    RoutingMargins,
    logit_agreements,
    routing_margins,
)
from grok_conformance.harness.checks.moves import with_ways
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.shown_logits import golden_in_form
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.matched_filter import Diagnosis
from grok_conformance.harness.graph.oracle import ExactWeights, evaluate
from grok_conformance.harness.judging.agreement import Agree, in_agreement, with_agreement
from grok_conformance.harness.judging.emulation import (
    JOINED,
    covering,
    diagnosed,
    emulating,
    taken_as_they_are,
    unmasked,
    unseen,
    waive,
    waive_unseen,
)
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.operations import (
    JudgedOperations,
    check_operations,
    judge_operations,
    ways_in_words,
)
from grok_conformance.harness.judging.quirks import quirks_among, wrong_in_other_rows
from grok_conformance.harness.judging.verdict import CaseVerdict, case_status
from grok_conformance.harness.judging.waivers import Waiver, in_case
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.running.answers import Answer

HonestRuns = dict[tuple[str, bytes, tuple[tuple[str, str], ...], tuple[str, ...], tuple[str, ...]], Honest]
"""Honest runs already measured, by case, route, dtypes and deviations: candidates alike in these share them."""


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
    quirks = quirks_among(exhibit, failing)
    if status == "fail" and quirks and len(quirks) == len(failing):  # what else fails is as wrong as anywhere
        evaluator = emulating(used) if used else evaluate
        wrong = wrong_in_other_rows(exhibit, failing, num_elements, evaluator)
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


@dataclass(frozen=True)
class WholeRun:
    """What the end-to-end check says of a case; nothing but the golden values, if any, where it was not made."""

    expected: Mapping[str, Array]
    drifts: tuple[Drift, ...] = ()
    flips: tuple[Flip, ...] = ()
    routing: FlipCount | None = None
    logits: tuple[LogitAgreement, ...] = ()
    margins: tuple[RoutingMargins, ...] = ()


def needs_whole_run(exhibit: Exhibit, used: Sequence[Waiver]) -> bool:
    """Return whether a case is held end to end against honest runs of it, which cost as much as all other checks.

    Where a drawn case shows every value, each operation is checked from what the one before it gave, down to the
    tokens. What adds up within the fences is seen in the stored cases of the same kind.
    """
    return drawn_as(exhibit.case.id) is None or exhibit.hides_taps or bool(used) or bool(exhibit.ways.readings)


def whole_run(
    exhibit: Exhibit, expected: Mapping[str, Array], used: Sequence[Waiver], honest_runs: HonestRuns
) -> WholeRun:
    """Hold a case end to end against honest runs along the port's own route, with the known deviations it showed."""
    case, evidence = exhibit.case, exhibit.evidence
    names = tuple(waiver.name for waiver in used)
    route = {**route_of(evidence), **taken_as_they_are(used, evidence)}
    taken = b"".join(route[key].tobytes() for key in sorted(route))
    plans = tuple(f"{row}: {exhibit.ways.plans[row]}" for row in sorted(exhibit.ways.plans))
    signature = (case.id, taken, tuple(evidence.recorded.items()), names, plans)
    if signature not in honest_runs:
        honest_runs[signature] = honest_run(
            exhibit.preset,
            case,
            route,
            exhibit.weights,
            evidence.recorded,
            emulating(used) if used else evaluate,
            exhibit.ways.plans,
        )
    honest = honest_runs[signature]
    expected = golden_in_form(expected or {tap_key(*key): x for key, x in honest.exact.items()}, case.form)
    routed = flips(evidence, honest, evidence.config)
    return WholeRun(
        expected,
        drifts=tuple(drifts(evidence, honest, expected)),
        flips=tuple(routed),
        routing=count_flips(len(routed), evidence, honest),
        logits=logit_agreements(case, evidence, honest, expected),
        margins=routing_margins(evidence, honest),
    )


def with_expected(comparison: Comparison, expected: Mapping[str, Array]) -> Comparison:
    """Add the golden values at the elements that a comparison names; `expected` holds them by `call0/TAP`, if any."""
    key = tap_key(comparison.call, comparison.tap)
    if not comparison.index or comparison.problem or key not in expected:
        return comparison
    golden = expected[key]
    tokens = tuple(replace(token, expected=float(golden[token.index])) for token in comparison.tokens)
    return replace(comparison, expected=float(golden[comparison.index]), tokens=tokens)
