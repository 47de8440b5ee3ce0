"""Judges answers: every case by the local check, the end-to-end check, its routing, and what the taps did to it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from harness.agreement import logit_agreements, routing_margins
from harness.answers import Answer, unrepeated
from harness.cases import Case, Preset, tap_key
from harness.compare import SPECS, Comparison, fit_slots, widen
from harness.contract import Array, split_tap, tap_names
from harness.diagnosis import Diagnosis, diagnose
from harness.graph import operation_of
from harness.local import Evidence, check_case, gather
from harness.operations.row import Alternative
from harness.oracle import ExactWeights
from harness.prediction import Exhibit
from harness.verdict import CaseVerdict, case_status, pooled_systematic
from harness.whole import SAFETY, Honest, drifts, flips, honest_run, per_token, route_of

HonestRuns = dict[tuple[str, bytes, tuple[tuple[str, str], ...]], Honest]
"""Honest runs already measured, by case, route and dtypes: candidates that are alike in these share them."""


@dataclass(frozen=True)
class Group:
    """The cases of one preset in one compute dtype, with their golden taps: what one job holds.

    `expected(case id)` gives the golden taps by `call0/TAP`.
    """

    preset: Preset
    fprop_dtype: str
    cases: tuple[Case, ...]
    expected: Callable[[str], Mapping[str, Array]]


@dataclass(frozen=True)
class Judged:
    """The verdicts on one group, and what was found of each operation over all groups of its compute dtype.

    The alternative chosen where it is not canonical, the diagnosis where it failed.
    """

    verdicts: tuple[CaseVerdict, ...]
    alternatives: Mapping[str, Alternative]
    diagnoses: Mapping[str, Diagnosis] = field(default_factory=dict)


def judge_candidate(
    groups: Sequence[Group], answers: Sequence[Mapping[str, Answer]], num_elements: int, honest_runs: HonestRuns
) -> list[Judged]:
    """Judge a candidate's answers to some groups.

    Where an operation fails as the specification asks for it, its permitted alternatives are tried; one is chosen per
    operation and compute dtype over all groups, or none if none makes every case of every group pass.
    """
    weights = [ExactWeights(replace(g.preset.config, fprop_dtype=g.fprop_dtype), g.preset.weights) for g in groups]
    evidence = [gather_group(group, answer) for group, answer in zip(groups, answers, strict=True)]
    local = [
        {case.id: check_case(group.preset, case, shown[case.id], num_elements=num_elements, weights=exact)
         for case in group.cases if case.id in shown}
        for group, shown, exact in zip(groups, evidence, weights, strict=True)
    ]  # fmt: skip
    chosen: dict[str, dict[str, Alternative]] = {}
    diagnoses: dict[str, dict[str, Diagnosis]] = {}
    for dtype in dict.fromkeys(group.fprop_dtype for group in groups):
        members = [i for i, group in enumerate(groups) if group.fprop_dtype == dtype]
        chosen[dtype] = choose_alternatives(members, groups, evidence, local, weights, num_elements)
        diagnoses[dtype] = diagnose_failures(members, groups, evidence, local, weights, chosen[dtype])
    judged = []
    for i, group in enumerate(groups):
        verdicts = []
        for case in group.cases:
            answer = answers[i][case.id]
            if case.id not in evidence[i]:
                verdicts.append(unanswered(case, answer))
                continue
            verdicts.append(
                judge_case(group, case, answer, evidence[i][case.id], local[i][case.id], weights[i], honest_runs)
            )
        judged.append(Judged(tuple(verdicts), chosen[group.fprop_dtype], diagnoses[group.fprop_dtype]))
    return judged


def gather_group(group: Group, answers: Mapping[str, Answer]) -> dict[str, Evidence]:
    """Read what a candidate showed in every case that it answered."""
    return {
        case.id: gather(group.preset, case, answer.info, answer.taps)
        for case in group.cases
        if (answer := answers[case.id]).status == "answered" and answer.info is not None
    }


def unanswered(case: Case, answer: Answer) -> CaseVerdict:
    """Return the verdict on a case without an answer."""
    status = "error" if answer.status == "answered" else answer.status
    return CaseVerdict(case=case.id, status=status, reason=answer.reason)


def choose_alternatives(
    members: Sequence[int],
    groups: Sequence[Group],
    evidence: Sequence[Mapping[str, Evidence]],
    local: Sequence[dict[str, list[Comparison]]],
    weights: Sequence[ExactWeights],
    num_elements: int,
) -> dict[str, Alternative]:
    """Choose for every operation that fails canonically the alternative that passes everywhere; update `local`."""
    failing = {
        c.operation for i in members for found in local[i].values() for c in found if not c.passed and not c.problem
    } | failing_together(local[i] for i in members)
    chosen: dict[str, Alternative] = {}
    for operation in sorted(failing):
        for alternative in permitted(alternatives_of(operation, groups, members), evidence, members):
            tried = {
                (i, case.id): check_case(
                    groups[i].preset, case, evidence[i][case.id], num_elements=num_elements, weights=weights[i],
                    alternatives={operation: alternative}, only=(operation,),
                )
                for i in members
                for case in groups[i].cases
                if case.id in evidence[i]
            }  # fmt: skip
            fits = [c for found in tried.values() for c in found if c.operation == operation]
            if all(c.passed for c in fits) and not failing_together(
                {case: found for (j, case), found in tried.items() if j == i} for i in members
            ):
                chosen[operation] = alternative
                for (i, case), found in tried.items():
                    better = {(c.call, c.tap): c for c in found if c.operation == operation}
                    local[i][case] = [better.get((c.call, c.tap), c) for c in local[i][case]]
                break
    return chosen


def permitted(
    alternatives: Sequence[Alternative], evidence: Sequence[Mapping[str, Evidence]], members: Sequence[int]
) -> list[Alternative]:
    """Return the alternatives that a candidate's declarations allow: operands like the cache need such a cache."""
    caches = {shown.recorded["kv.keys"] for i in members for shown in evidence[i].values()}
    return [each for each in alternatives if each.operands in ("shown", "fprop") or caches == {each.operands}]


def failing_together(local: Iterable[Mapping[str, Sequence[Comparison]]]) -> set[str]:
    """Return the operations whose systematic statistic fails over all cases; comparisons go by case."""
    by_operation: dict[str, list[tuple[str, Comparison]]] = {}
    for cases in local:
        for case, found in cases.items():
            for comparison in found:
                by_operation.setdefault(comparison.operation, []).append((case, comparison))
    return {
        operation
        for operation, found in by_operation.items()
        if any(not one.ratio <= 1 for one in pooled_systematic(found))
    }


def diagnose_failures(
    members: Sequence[int],
    groups: Sequence[Group],
    evidence: Sequence[Mapping[str, Evidence]],
    local: Sequence[Mapping[str, list[Comparison]]],
    weights: Sequence[ExactWeights],
    alternatives: Mapping[str, Alternative],
) -> dict[str, Diagnosis]:
    """Return the diagnosis of every operation that failed or has a note, over all groups of one compute dtype."""
    answered = [(i, case) for i in members for case in groups[i].cases if case.id in evidence[i]]
    comparisons = [local[i][case.id] for i, case in answered]
    failing = {c.operation for found in comparisons for c in found if not c.passed or c.note}
    failing |= failing_together(local[i] for i in members)
    if not failing:
        return {}
    exhibits = [Exhibit(groups[i].preset, case, evidence[i][case.id], weights[i], alternatives) for i, case in answered]
    return diagnose(exhibits, comparisons, failing)


def alternatives_of(operation: str, groups: Sequence[Group], members: Sequence[int]) -> tuple[Alternative, ...]:
    """Return the permitted alternatives of an operation besides the canonical one."""
    for i in members:
        for tap in tap_names(groups[i].preset.config):
            if split_tap(tap)[1] == operation:
                return operation_of(tap, groups[i].preset.config).alternatives[1:]
    return ()


def judge_case(
    group: Group,
    case: Case,
    answer: Answer,
    evidence: Evidence,
    comparisons: Sequence[Comparison],
    weights: ExactWeights,
    honest_runs: HonestRuns,
) -> CaseVerdict:
    """Return the verdict on one answered case."""
    route = route_of(evidence)
    signature = (case.id, b"".join(route[key].tobytes() for key in sorted(route)), tuple(evidence.recorded.items()))
    if signature not in honest_runs:
        honest_runs[signature] = honest_run(group.preset, case, route, weights, evidence.recorded)
    honest = honest_runs[signature]
    expected = dict(group.expected(case.id))
    found = drifts(evidence, honest, expected)
    routed = flips(evidence, honest, evidence.config)
    observer = observer_effect(answer, evidence, honest)
    status, reason = case_status(comparisons, found, routed, observer)
    shown = [tap_key(call, tap) for call, tap in evidence.observed]
    return CaseVerdict(
        case=case.id,
        status=status,
        reason=reason,
        comparisons=tuple(with_expected(comparison, expected) for comparison in comparisons),
        drifts=tuple(found),
        flips=tuple(routed),
        logits=logit_agreements(case, evidence, honest, expected),
        margins=routing_margins(evidence, honest),
        repeatable=None if answer.repeat is None else not unrepeated(answer, shown),
        observer=observer,
        seconds=answer.seconds,
    )


def with_expected(comparison: Comparison, expected: Mapping[str, Array]) -> Comparison:
    """Add the golden values at the elements that a comparison names; `expected` holds them by `call0/TAP`."""
    if not comparison.index or comparison.problem:
        return comparison
    golden = expected[tap_key(comparison.call, comparison.tap)]
    tokens = tuple(replace(token, expected=float(golden[token.index])) for token in comparison.tokens)
    return replace(comparison, expected=float(golden[comparison.index]), tokens=tokens)


def observer_effect(answer: Answer, evidence: Evidence, honest: Honest) -> str:
    """Return how the run without taps strays beyond honest error, an empty string where it does not.

    Bit-identical runs need no more; otherwise the untapped values are held to the same end-to-end fence.
    """
    if answer.untapped is None:
        return ""
    for (call, tap), seen in evidence.observed.items():
        key = tap_key(call, tap)
        if key not in answer.untapped:
            continue
        spec, mask = SPECS[split_tap(tap)[1]], evidence.masks[call, split_tap(tap)[1]]
        untapped = answer.untapped[key]
        if untapped.shape != answer.taps[key].shape:
            return f"{tap}: without taps the shape is {list(untapped.shape)}, with taps {list(answer.taps[key].shape)}"
        num_slots = seen.raw.shape[spec.axes.index("s")] if "s" in spec.axes else 0
        values = widen(fit_slots(untapped, spec, num_slots))
        error = per_token(np.where(mask, values - honest.exact[call, tap], 0.0), spec.axes)
        allowed = SAFETY * honest.error[call, tap] + np.finfo(np.float32).tiny
        if not (error <= allowed).all():
            return f"{tap}: the run without taps is {float((error / allowed).max()):.3g} times beyond honest error"
    return ""
