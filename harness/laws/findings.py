"""What a law came to on one draw: a changed run held to what the unchanged one says it must be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from grok_conformance.harness.checks.end_to_end import per_token
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.laws.draws import Draw
from grok_conformance.harness.laws.laws import Experiment, Law
from grok_conformance.harness.measure.noise import closed_by

Status = Literal["pass", "fail", "error", "unsupported", "inconclusive"]
SEVERITY: tuple[Status, ...] = ("pass", "inconclusive", "unsupported", "error", "fail")
SILENT: tuple[Status, ...] = ("inconclusive", "unsupported")


@dataclass(frozen=True)
class Finding:
    """What a law came to on one draw; `ratio` is the worst difference over what honest rounding allows two runs.

    `bitwise` tells whether all compared values were equal; `where` names the worst tap, row and position.
    """

    law: Law
    draw: Draw
    status: Status
    ratio: float = 0.0
    bitwise: bool = True
    where: str = ""


def held_to_bits(finding: Finding, *, repeats: bool) -> Finding:
    """Fail a bitwise law that held only within rounding, for a candidate that repeats itself bit for bit."""
    if finding.law.bitwise and repeats and finding.status == "pass" and not finding.bitwise:
        return replace(finding, status="fail")
    return finding


def compare(
    law: Law,
    draw: Draw,
    experiment: Experiment,
    base: Mapping[str, Array],
    found: Mapping[str, Array],
    error: Mapping[str, Array],
    decided: Array,
) -> Finding:
    """Compare a changed run with what the unchanged one says it must be, at the positions that the law speaks of."""
    rows = list(experiment.rows)
    num_positions = np.minimum(experiment.num_positions, decided[rows])  # [changed rows]
    worst, where, bitwise = 0.0, "", True
    for tap, x in base.items():
        operation = split_tap(tap)[1]
        shared = min(x.shape[1], found[tap].shape[1])
        compared = np.arange(shared) < num_positions[:, None]  # [changed rows, position]
        expected, seen = predicted(operation, x[rows], experiment)[:, :shared], found[tap][:, :shared]
        difference = np.where(expected == seen, 0.0, seen - expected)
        with np.errstate(all="ignore"):
            strayed: Array = per_token(difference, ("b", "t", *SPECS[operation].axes[2:]))
            allowed = closed_by(error[tap][rows][:, :shared]) * experiment.factors.get(operation, 1.0)
            ratio = np.where(compared & (strayed != 0), strayed / (allowed + np.finfo(np.float32).tiny), 0.0)
        ratio = np.where(np.isnan(ratio), math.inf, ratio)
        bitwise = bitwise and not ratio.any()
        if ratio.size and ratio.max() > worst:
            row, position = np.unravel_index(int(ratio.argmax()), ratio.shape)
            worst, where = float(ratio.max()), f"{tap}, row {row}, position {position}"
    if not num_positions.any():
        return Finding(law, draw, "inconclusive", where="every position hangs on a choice of experts within rounding")
    return Finding(law, draw, "pass" if worst <= 1 else "fail", worst, bitwise, where)


def predicted(operation: str, x: Array, experiment: Experiment) -> Array:
    """Return what an operation's result [b, position, …] must be in the changed run."""
    if operation == GROK_1.choice and "e" in experiment.order:
        renamed: Array = np.argsort(experiment.order["e"])[x.astype(int)]
        return renamed.astype(np.float64)
    for i, axis in enumerate(SPECS[operation].axes):
        if axis in experiment.order:
            x = np.take(x, experiment.order[axis], axis=i)
    scaled: Array = x * experiment.factors.get(operation, 1.0)
    return scaled
