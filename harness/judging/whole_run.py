"""A case held end to end against honest runs along the port's own route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from grok_conformance.harness.cases.case import tap_key
from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.checks.end_to_end import (
    Drift,
    Flip,
    Honest,
    drifts,
    flips,
    honest_run,
    open_end_to_end,
    route_of,
)
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.flips import FlipCount, count_flips
from grok_conformance.harness.checks.logit_agreement import (
    LogitAgreement,
    RoutingMargins,
    logit_agreements,
    routing_margins,
)
from grok_conformance.harness.checks.readings import reader
from grok_conformance.harness.checks.shown_logits import golden_in_form
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.judging.emulation import emulating, taken_as_they_are
from grok_conformance.harness.judging.waivers import Waiver

Pairs = tuple[tuple[str, str], ...]
HonestRuns = dict[tuple[str, bytes, Pairs, tuple[str, ...], tuple[str, ...], Pairs], Honest]
"""Honest runs already measured, by case, route, dtypes, deviations, plans and declared quantisations."""

MAX_HONEST_BYTES = 2**26
"""The memory that honest runs may take; what comes when it is full is measured for each candidate anew."""


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
    quantised = tuple(evidence.graph.quantised.items())
    # A step of a quantised value is more than honest noise, so that what was read instead of it is followed.
    readings = exhibit.ways.readings if quantised else {}
    plans = (*plans, *(f"{edge}: {reading}" for edge, reading in readings.items()))
    signature = (case.id, taken, tuple(evidence.recorded.items()), names, plans, quantised)
    honest = honest_runs.get(signature) or honest_run(
        exhibit.preset,
        case,
        route,
        exhibit.weights,
        evidence.recorded,
        reader(readings, evidence.recorded, emulating(used) if used else evaluate),
        exhibit.ways.plans,
    )
    if sum(each.num_bytes for each in honest_runs.values()) + honest.num_bytes <= MAX_HONEST_BYTES:
        honest_runs[signature] = honest
    expected = golden_in_form(expected or {tap_key(*key): x for key, x in honest.exact.items()}, case.form)
    routed = flips(evidence, honest, evidence.config)
    return WholeRun(
        expected,
        drifts=tuple(drifts(evidence, honest, expected, open_end_to_end(exhibit, honest))),
        flips=tuple(routed),
        routing=count_flips(len(routed), evidence, honest),
        logits=logit_agreements(case, evidence, honest, expected),
        margins=routing_margins(evidence, honest),
    )
