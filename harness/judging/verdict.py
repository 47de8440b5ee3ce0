"""From comparisons to verdicts: of a case, of an operation over all cases, of a candidate. Absence is never success."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.cases.reruns import RERUNS
from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.flips import FlipCount
from grok_conformance.harness.checks.loaded_weights import WeightProblem
from grok_conformance.harness.checks.logit_agreement import LogitAgreement, RoutingMargins
from grok_conformance.harness.checks.pooling import pooled_systematic
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.power import Power
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.judging.coverage import Coverage
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.comparison import Comparison, Kind
from grok_conformance.harness.measure.systematic import Systematic
from grok_conformance.harness.measure.words import number_of, times

Status = Literal["pass", "waived", "quirk", "fail", "missing", "unsupported", "error", "inconclusive"]

MEANINGS: Mapping[str, str] = {
    "pass": "every compared value lies within its fence, at the level that the verdict names: logits, routes (the "
    "experts chosen as well), layers (every operation) or caches (and the KV cache)",
    "waived": "as a pass, but for known deviations, each of which is exactly what a waiver says",
    "quirk": "a case of pads inside a prompt, or decoded, or of equal scores in no order that the port claims, where "
    "it does otherwise than the published model; counts as a pass unless `--require NAME:quirks` asks for it",
    "inconclusive": "nothing could be compared, or every compared token hangs on a hidden choice of experts that may "
    "honestly go either way; show more taps",
    "unsupported": "the candidate declined the configuration and said why",
    "missing": "a tap that the candidate declares was not returned, or a case has no answer at all",
    "error": "the candidate crashed, hung, took too much memory, or its answer cannot be read",
    "fail": "a value lies beyond its fence, an expert was chosen without excuse, the end-to-end error is larger than "
    "honest rounding gives, or a further run of a case does any of this",
}
"""What each status means, from the lightest to the worst; only `pass`, `waived` and `quirk` count as one."""

PASSING = ("pass", "waived", "quirk")

UNCOUNTED: Mapping[str, str] = {"unsupported": "known to be unsupported", "inconclusive": "left open by what is hidden"}
"""What cases say that need not count, in words, by their status."""

CONFIDENCE = 0.95

SEVERITY: Mapping[str, int] = {name: rank for rank, name in enumerate(MEANINGS)}


@dataclass(frozen=True, kw_only=True)
class RunVerdict:
    """What was found in one run of a case, the first or a further one; `bitwise` tells whether it gave the same bits.

    Further runs that gave others were judged by the same checks.
    """

    name: str
    status: Status
    reason: str
    bitwise: bool


@dataclass(frozen=True, kw_only=True)
class CaseVerdict:
    """What was found in one case.

    `comparisons` are the local checks, `drifts` the end-to-end errors, `flips` the tokens routed otherwise than exact,
    `routing` how many of them honest rounding explains, `logits` the agreement of the logits token by token, `margins`
    how close the routing was.
    `runs` are the first run and the further ones; `repeatable` tells whether those with the same taps were bit for bit
    the first, None if there were none. `cause` says what the failure of some of them hangs on, as far as it is proven:
    `tapping`, `history`, `randomness`, `concurrency`; of a drawn case `memory`. `waived` names the known deviations
    that it showed, or why the case need not count. `quirks` are the taps, as `call0/TAP`, in which a port sees other
    keys than the published model does in a case of pads. `seconds` is the candidate's own time.
    """

    case: str
    status: Status
    reason: str = ""
    comparisons: tuple[Comparison, ...] = ()
    drifts: tuple[Drift, ...] = ()
    flips: tuple[Flip, ...] = ()
    routing: FlipCount | None = None
    logits: tuple[LogitAgreement, ...] = ()
    margins: tuple[RoutingMargins, ...] = ()
    runs: tuple[RunVerdict, ...] = ()
    repeatable: bool | None = None
    cause: str = ""
    waived: tuple[str, ...] = ()
    quirks: tuple[str, ...] = ()
    seconds: float | None = None

    @property
    def does_not_count(self) -> bool:
        """Whether it says nothing of the candidate, and need not: a case that it may decline, or that stays open."""
        return bool(self.waived) and self.status in UNCOUNTED


@dataclass(frozen=True, kw_only=True)
class OperationVerdict:
    """One operation over all cases of one compute dtype: its worst comparison, and the layers at fault.

    `systematic` pools what its taps err in common, and may fail where no single tap does. `alternative` says in words
    in which way the candidate computes it, of one that fails the nearest way; empty for the published one. `diagnosis`
    is the likely fault, None where nothing is wrong.
    """

    operation: str
    fprop_dtype: str
    status: Status
    num_comparisons: int
    worst_case: str
    worst: Comparison
    systematic: tuple[Systematic, ...]
    layers_at_fault: tuple[int, ...]
    cases_at_fault: tuple[str, ...]
    alternative: str
    diagnosis: Diagnosis | None = None


@dataclass(frozen=True, kw_only=True)
class CandidateVerdict:
    """The verdict on a candidate, and all that it rests on.

    `seconds` it took to answer, `judging_seconds` the harness to judge; `weights` are those it shows that are not as
    stored. `level` is the highest of which it shows every tap, `next_taps` are the operations missing to the next one.
    `powers` tell which known faults the run could have seen, `coverage` which sizes and orders of calls it exercised.
    `waivers` are the known deviations that it showed; `outdated` has a line for each that has expired or gone.
    `narrowed` says to what the run was restricted, empty if whole; `quantised` is what it declares of operands.
    """

    name: str
    version: str
    level: str
    cases: tuple[CaseVerdict, ...]
    operations: tuple[OperationVerdict, ...]
    seconds: float
    judging_seconds: float = 0.0
    powers: tuple[Power, ...] = ()
    coverage: tuple[Coverage, ...] = ()
    weights: tuple[WeightProblem, ...] = ()
    next_taps: tuple[str, ...] = ()
    waivers: tuple[Waiver, ...] = ()
    outdated: tuple[str, ...] = ()
    narrowed: str = ""
    quantised: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> Status:
        """The worst status of weights, cases and operations; `missing` if it does not even show the logits.

        Cases that it is known to decline do not count, nor do those that stay open where most others are decided.
        """
        failed: list[Status] = [row.status for row in self.operations if row.status == "fail"]
        failed += ["fail"] if self.weights or self.outdated else []
        number_of = [case.status for case in self.cases if not case.does_not_count]
        core = [status for status in number_of if status != "quirk"] or number_of
        status = worst_status([*core, *failed])
        return "missing" if status in PASSING and self.level == "none" else status

    @property
    def passed(self) -> bool:
        """Whether every case passed, known deviations apart."""
        return self.status in PASSING

    @property
    def rounding_elsewhere(self) -> tuple[OperationVerdict, ...]:
        """The operations that are right, but round elsewhere than published."""
        return tuple(row for row in self.operations if row.alternative and row.status != "fail")

    @property
    def missed_quirks(self) -> tuple[str, ...]:
        """The cases of published quirks that it does not reproduce, which counts only where they are required."""
        return tuple(case.case for case in self.cases if case.status == "quirk")

    @property
    def as_published(self) -> bool:
        """Whether it passed, rounds as published everywhere and quantises nothing: what `--strict` asks for."""
        return self.passed and not self.rounding_elsewhere and not self.quantised

    @property
    def rarest_race(self) -> float | None:
        """The least share of runs in which a race would have shown with 95 % confidence, None where one did show.

        Counted are the further runs with the same taps.
        """
        whole = {rerun.name for rerun in RERUNS if rerun.is_whole}
        same = [run.bitwise for case in self.cases for run in case.runs if run.name in whole]
        return 1 - (1 - CONFIDENCE) ** (1 / len(same)) if same and all(same) else None

    @property
    def summary(self) -> str:
        """The status as it is shown: a pass names its level, its known deviations, and what differs by choice."""
        if self.narrowed or not self.passed:
            return f"{self.status}, of {self.narrowed} alone" if self.narrowed else self.status
        if self.status == "quirk":
            return "quirk, of nothing but published quirks, which it does not reproduce"
        num_deviations = sum(bool(waiver.tap) for waiver in self.waivers)
        known = f" with {num_deviations} known deviation{'s' * (num_deviations > 1)}" if num_deviations else ""
        places = list(dict.fromkeys(row.operation for row in self.rounding_elsewhere))
        elsewhere = f", rounds elsewhere: {', '.join(places)}" if places else ""
        fewer = f", quantised as declared: {', '.join(self.quantised)}" if self.quantised else ""
        return f"pass ({self.level}){known}{elsewhere}{fewer}"


def worst_status(statuses: Iterable[Status]) -> Status:
    """Return the worst of some statuses; `missing` if there is none, since nothing was shown."""
    return max(statuses, key=SEVERITY.__getitem__, default="missing")


def case_status(  # noqa: PLR0911 - one return per rule, in order of precedence
    comparisons: Sequence[Comparison],
    drifts: Sequence[Drift],
    flips: Sequence[Flip],
    routing: FlipCount | None,
) -> tuple[Status, str]:
    """Return the status of an answered case and, where it is no pass, the reason in one line.

    A tap that is declared and not returned is `missing`; anything beyond its fence, an unexcused choice of experts or
    more excused ones than honest rounding makes, or an end-to-end error beyond what it gives is a `fail`.
    """
    failed = [comparison for comparison in comparisons if not comparison.passed]
    missing = [comparison for comparison in failed if comparison.kind is Kind.MISSING]
    if wrong := [comparison for comparison in failed if comparison not in missing]:
        first = wrong[0]
        return "fail", f"{first.tap}: {first.problem or f'{times(first.ratio)} times the fence'}"
    if missing:
        return "missing", f"{missing[0].tap}: {missing[0].problem}"
    if unexcused := [flip for flip in flips if not flip.excused]:
        flip = unexcused[0]
        where = f"layer {flip.layer} chose other experts for token {list(flip.index)}"
        return "fail", f"{where}: gap {flip.gap:.3g}, honest {flip.allowed:.3g}"
    if routing is not None and not routing.passed:
        count = f"{number_of(routing.observed, 'tokens')} chose other experts within their margins"
        return "fail", f"{count}, {routing.expected:.3g} expected: a chance of {routing.chance:.1e}"
    if far := [drift for drift in drifts if not drift.ratio <= 1]:
        told = f"end to end {times(far[0].ratio)} times the honest error, with every operation right"
        return "fail", f"{far[0].tap}: {told}"
    if not any(comparison.num_elements for comparison in comparisons):
        return "inconclusive", "nothing could be compared"
    if undecided := [comparison for comparison in comparisons if comparison.undecided]:
        told = "every compared token hangs on a hidden choice of experts within rounding"
        return "inconclusive", f"{undecided[0].tap}: {told}"
    return ("waived", "") if any(comparison.waived for comparison in comparisons) else ("pass", "")


def by_operation(
    cases: Sequence[CaseVerdict],
    dtypes: Mapping[str, str],
    alternatives: Mapping[tuple[str, str], str],
    diagnoses: Mapping[tuple[str, str], Diagnosis] | None = None,
    graph: ModelGraph = GROK_1,
) -> tuple[OperationVerdict, ...]:
    """Pool the comparisons of all cases by operation and compute dtype.

    `dtypes` gives the compute dtype of each case; `alternatives` the way chosen for (fprop_dtype, operation), and
    `diagnoses` its likely fault. Published quirks that a port does not reproduce do not count.
    """
    pooled: dict[tuple[str, str], list[tuple[str, Comparison]]] = {}
    for case in (case for case in cases if case.status != "quirk"):
        for comparison in (c for c in case.comparisons if tap_key(c.call, c.tap) not in case.quirks):
            pooled.setdefault((comparison.operation, dtypes[case.case]), []).append((case.case, comparison))
    names = [spec.operation for spec in graph.taps]
    rows = []
    for (operation, dtype), found in sorted(pooled.items(), key=lambda item: (names.index(item[0][0]), item[0][1])):
        failed = [(case, comparison) for case, comparison in found if not comparison.passed or comparison.waived]
        systematic = pooled_systematic(found, graph)
        worst_case, worst = max(found, key=lambda pair: math.inf if math.isnan(pair[1].ratio) else pair[1].ratio)
        rows.append(
            OperationVerdict(
                operation=operation,
                fprop_dtype=dtype,
                status=_pooled_status(found, systematic),
                num_comparisons=len(found),
                worst_case=worst_case,
                worst=worst,
                systematic=systematic,
                layers_at_fault=tuple(sorted({c.layer for _, c in failed if c.layer is not None})),
                cases_at_fault=tuple(dict.fromkeys(case for case, _ in failed)),
                alternative=alternatives.get((dtype, operation), ""),
                diagnosis=(diagnoses or {}).get((dtype, operation)),
            )
        )
    return tuple(rows)


def _pooled_status(found: Sequence[tuple[str, Comparison]], systematic: Sequence[Systematic]) -> Status:
    failed = [comparison for _, comparison in found if not comparison.passed]
    if not failed and any(not one.ratio <= 1 for one in systematic):
        return "fail"
    if not failed and any(comparison.waived for _, comparison in found):
        return "waived"
    if not failed:
        return "pass" if any(comparison.num_elements for _, comparison in found) else "inconclusive"
    return "missing" if all(comparison.kind is Kind.MISSING for comparison in failed) else "fail"
