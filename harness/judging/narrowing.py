"""A run narrowed to some operations and layers: the local check alone, in a fraction of the time.

Nothing is said of what lies outside, end to end least of all; the verdict carries what it was narrowed to.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from grok_conformance.harness.checks.flips import FlipCount
from grok_conformance.harness.contract import split_tap, tap_specs
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.judging.agreement import Agree, in_agreement, with_agreement
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import (
    Judged,
    judge_candidate,
    judged_group,
    shown_in,
    unanswered,
    with_expected,
)
from grok_conformance.harness.judging.operations import judge_operations
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, case_status
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.judging.way_words import ways_in_words
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.running.answers import Answer

UNCOUNTED = FlipCount(0, 0.0, 1.0)
"""Of a narrowed run, in which the choices of experts are not counted over the whole case."""


@dataclass(frozen=True)
class Narrow:
    """What a run is narrowed to: operations and layers, all of them where none is named.

    `asked` are the names or globs by which the operations were asked for.
    """

    operations: tuple[str, ...] = ()
    layers: tuple[int, ...] = ()
    asked: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        """Whether anything is left out."""
        return bool(self.operations or self.layers)

    def __str__(self) -> str:
        """Return it in words."""
        layers = [f"layer{'s' * (len(self.layers) > 1)} {', '.join(map(str, self.layers))}"] if self.layers else []
        return " in ".join([*([", ".join(self.asked)] if self.asked else []), *layers])

    def covers(self, comparison: Comparison) -> bool:
        """Whether a comparison is asked for."""
        named = not self.operations or comparison.operation in self.operations
        return named and (not self.layers or comparison.layer in self.layers)


def operations_named(patterns: Sequence[str]) -> tuple[str, ...]:
    """Return the operations that names or globs match; raises FileError for one that matches none."""
    known = [spec.operation for spec in tap_specs()]
    for pattern in patterns:
        if not fnmatch.filter(known, pattern):
            raise FileError(f"--operation: {unknown('operation', pattern, known)}")
    return tuple(name for name in known if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))


def narrow_to(operations: Sequence[str], layers: Sequence[int], groups: Sequence[Group]) -> Narrow:
    """Return what a run over some groups is narrowed to; raises FileError for a layer that no preset has."""
    depth = max(group.preset.config.model.num_layers for group in groups)
    if outside := [layer for layer in layers if not 0 <= layer < depth]:
        raise FileError(f"--layer {outside[0]}: the cases have layers 0 to {depth - 1}")
    return Narrow(operations_named(operations), tuple(sorted(set(layers))), tuple(operations))


def judge_as_asked(
    groups: Sequence[Group],
    answers: Sequence[Mapping[str, Answer]],
    num_elements: int,
    honest_runs: HonestRuns,
    narrow: Narrow,
    waivers: Sequence[Waiver] = (),
    agree: Agree = in_agreement,
) -> list[Judged]:
    """Judge a candidate's answers to some groups, narrowed or whole; known deviations count in a whole run."""
    if narrow:
        return judge_narrowly(groups, answers, num_elements, narrow)
    return judge_candidate(groups, answers, num_elements, honest_runs, waivers, agree)


def narrowed(verdict: CandidateVerdict, narrow: Narrow) -> CandidateVerdict:
    """Return a verdict with what it was narrowed to; of a narrowed run no power and no level are told."""
    return replace(verdict, narrowed=str(narrow), powers=(), next_taps=()) if narrow else verdict


def judge_narrowly(
    groups: Sequence[Group], answers: Sequence[Mapping[str, Answer]], num_elements: int, narrow: Narrow
) -> list[Judged]:
    """Judge a candidate's answers to some groups at some operations and layers alone.

    The ways of computing are chosen as in a whole run, but from what is looked at.
    """
    pairs = list(zip(groups, answers, strict=True))
    exhibits = {one.case.id: one for group, answer in pairs for one in shown_in(group, answer)}
    found, words = {}, {}
    for dtype in dict.fromkeys(group.fprop_dtype for group in groups):
        own = [one for one in exhibits.values() if one.evidence.config.fprop_dtype == dtype]
        rows = {row for group in groups for row in rows_named(narrow, group)} if narrow.operations else None
        found[dtype] = judge_operations(own, num_elements, rows)
        words[dtype] = ways_in_words(found[dtype].exhibits)
    found = with_agreement(found, in_agreement)
    results = []
    for group, answer in pairs:
        judged = found[group.fprop_dtype]
        verdicts = tuple(
            case_verdict(group, case.id, answer[case.id], judged.local[case.id], narrow)
            if case.id in exhibits
            else unanswered(case, answer[case.id], ())
            for case in group.cases
        )
        results.append(judged_group(group, verdicts, judged, words[group.fprop_dtype]))
    return results


def rows_named(narrow: Narrow, group: Group) -> set[str]:
    """Return the rows of the graph that must be worked out: of the operations asked for, and the scores of a choice."""
    graph, config = group.graph, group.preset.config
    needed = {*narrow.operations, *([graph.scores] if graph.choice in narrow.operations else ())}
    taps = [tap for tap in graph.tap_names(config) if split_tap(tap)[1] in needed]
    return {graph.operation_of(tap, config).name for tap in taps}


def case_verdict(
    group: Group, case_id: str, answer: Answer, comparisons: Sequence[Comparison], narrow: Narrow
) -> CaseVerdict:
    """Return the verdict on one answered case at what is looked at."""
    kept = [comparison for comparison in comparisons if narrow.covers(comparison)]
    status, reason = case_status(kept, (), (), UNCOUNTED)
    expected = group.expected(case_id)
    return CaseVerdict(
        case=case_id,
        status=status,
        reason=reason,
        comparisons=tuple(with_expected(comparison, expected) for comparison in kept),
        seconds=answer.seconds,
    )
