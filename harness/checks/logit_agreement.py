"""What a whole run says besides its errors: how the logits agree token by token, and how close the routing was."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.cases.case import Case, steps_before, tap_key
from grok_conformance.harness.checks.end_to_end import Honest
from grok_conformance.harness.checks.evidence import Evidence
from grok_conformance.harness.checks.undecided import boundary_gap
from grok_conformance.harness.contract import LOGITS, Array, split_tap
from grok_conformance.harness.graph.forms import log_softmax
from grok_conformance.harness.measure.histogram import histogram


@dataclass(frozen=True)
class LogitAgreement:
    """How the logits of one token agree with the exact ones along the candidate's own route.

    `position` counts from the start of the sequence. `kl_divergence` is KL(exact ‖ observed) in nats, `expected_kl`
    that of the golden value; `top_1` tells whether the most probable token is the exact one.
    """

    call: int
    kind: str
    row: int
    position: int
    kl_divergence: float
    expected_kl: float
    top_1: bool


@dataclass(frozen=True)
class RoutingMargins:
    """How close the choice of experts was in one layer of one call.

    Of every compared token, the gap between the exact scores at the boundary of top-k is counted in units of what
    honest rounding can close, in the bins of `harness.measure.histogram.EDGES`: up to 1 the choice may go either way.
    """

    call: int
    layer: int
    histogram: tuple[int, ...]


def kl_divergence(exact: Array, other: Array) -> Array:
    """Return KL(exact ‖ other) in nats over the last axis of two arrays of logits."""
    p, q = log_softmax(exact), log_softmax(other)
    divergence: Array = np.maximum((np.exp(p) * (p - q)).sum(-1), 0.0)  # below 0 by rounding alone
    return divergence


def logit_agreements(
    case: Case, evidence: Evidence, honest: Honest, expected: Mapping[str, Array]
) -> tuple[LogitAgreement, ...]:
    """Return the agreement of every compared token, where the candidate shows its logits."""
    found = []
    for i, call in enumerate(case.calls):
        if (i, LOGITS) not in evidence.observed or i in evidence.named:  # too little is shown
            continue
        observed, exact = evidence.observed[i, LOGITS].cleaned, honest.exact[i, LOGITS]  # [b, t, v]
        divergence = kl_divergence(exact, observed)
        golden = kl_divergence(exact, expected[tap_key(i, LOGITS)].astype(np.float64))
        agrees = observed.argmax(-1) == exact.argmax(-1)
        steps = steps_before(case, i)
        mask = np.broadcast_to(evidence.masks[i, LOGITS], exact.shape)[..., 0]  # [b, t]
        found += [
            LogitAgreement(
                i,
                call.kind,
                int(b),
                int(steps[b] + t),
                float(divergence[b, t]),
                float(golden[b, t]),
                bool(agrees[b, t]),
            )
            for b, t in np.argwhere(mask)
        ]
    return tuple(found)


def routing_margins(evidence: Evidence, honest: Honest) -> tuple[RoutingMargins, ...]:
    """Return how close the exact choice of experts is in every layer of every call."""
    found = []
    for (call, tap), probabilities in honest.exact.items():
        layer, operation = split_tap(tap)
        if operation != evidence.graph.scores or layer is None:
            continue
        gap = boundary_gap(probabilities, evidence.config)  # [b, t]
        closes = np.maximum(honest.closes((call, tap)), np.finfo(np.float64).tiny)
        mask = evidence.masks[call, evidence.graph.choice][..., 0]
        found.append(RoutingMargins(call, layer, histogram((gap / closes)[mask])))
    return tuple(found)
