"""What failing values are right for, where no known fault explains them: the likeliest generic transformation.

Every row of the table (`transformations`) is asked for hypotheses about one failing tap; they are ranked by the
likelihood by which ways are told apart (`checks.likelihood`), and the likeliest must hold in the other failing taps.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.checks.likelihood import DECISIVE, FACTOR
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial, trial_of
from grok_conformance.harness.diagnosis.relocated import LARGEST_ERROR
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, failing, noise_of
from grok_conformance.harness.diagnosis.transformations import TRANSFORMATIONS, Transformation

EXPLAINED = 0.95
"""Share of the failing values that must lie within honest noise of what a hypothesis gives."""

NUM_TAPS = 4
"""Failing taps that are looked at, of as many layers and calls as there are."""

MIN_VALUES = 2
"""Fewer failing values say nothing."""

LARGEST_TAP, LARGEST_WEIGHT = 300_000, 1_000_000
"""Elements of a tap, and of a weight, up to which an operation is applied again to other inputs and weights."""

FAINT_SIZE = 1.5
"""Mean square of what is left over, in deviations, where no single value fails and all are looked at."""


@dataclass(frozen=True)
class Likeness:
    """What failing values are right for: in words, what to change, and whether the values are merely laid out anew."""

    words: str = ""
    remedy: str = ""
    relabels: bool = False


def likeness_of(taps: Sequence[ShownTap]) -> Likeness:
    """Return what the failing values of one operation are right for; an empty likeness where nothing is decisive."""
    trials = [trial_of(one) for one in spread_out(failing(taps) or worst_of(taps))]
    if not trials or len(trials[0].at) < MIN_VALUES:
        return Likeness()
    accepted = accepted_of(trials)
    if not accepted:
        return Likeness()
    plainest = min(accepted, key=lambda each: each.order)
    likest = [each for each in accepted if each.hypothesis.free <= plainest.hypothesis.free]
    rivals = [each.hypothesis.words for each in likest if each.row is not plainest.row]
    words = plainest.hypothesis.words + (f" (or {rivals[0]})" if rivals else "")
    return Likeness(words, plainest.row.remedy, all(each.hypothesis.relabels for each in likest))


def accepted_of(trials: Sequence[Trial]) -> list[Ranked]:
    """Return the likeliest hypothesis that holds in all taps, and those that the data does not tell from it.

    What follows from a fault before it is said to do so, whatever else may be said of it.
    """
    first, others = trials[0], trials[1:]
    ranked = sorted(hypotheses(first), key=lambda each: each.surprise)
    least = surprise_of(first, first.shown.exact, first.shown.deviation) - DECISIVE - math.log(max(len(ranked), 1))
    likely = [each for each in ranked if each.surprise < least]
    accepted: list[Ranked] = []
    for each in sorted(likely, key=lambda each: (not each.row.follows, each.surprise)):
        if accepted and (accepted[0].row.follows or each.surprise > accepted[0].surprise + DECISIVE):
            break
        if explains(first, each.hypothesis) and all(explains(trial, each.hypothesis) for trial in others):
            accepted.append(each)
    return accepted


def spread_out(taps: Sequence[ShownTap]) -> list[ShownTap]:
    """Return a few failing taps, the worst first, of other layers and calls before more of the same."""
    kept: list[ShownTap] = []
    for fresh in (True, False):
        for one in taps:
            seen = {(each.layer, each.call > 0) for each in kept}
            if (
                len(kept) < NUM_TAPS
                and all(one is not each for each in kept)
                and (not fresh or (one.layer, one.call > 0) not in seen)
            ):
                kept.append(one)
    return kept


def worst_of(taps: Sequence[ShownTap]) -> list[ShownTap]:
    """Return the tap that is worst in the mean, where no single value fails."""

    def size(one: ShownTap) -> float:
        error = (one.observed - one.exact)[one.compared] / noise_of(one, one.deviation, one.observed)[one.compared]
        return float(np.sqrt(np.square(error).sum())) if np.all(np.isfinite(error)) else 0.0

    return sorted((one for one in taps if one.compared.any()), key=size, reverse=True)[:1]


@dataclass(frozen=True)
class Ranked:
    """A hypothesis, its row and its place in the table, and how surprising what was observed is if it holds."""

    surprise: float
    order: int
    row: Transformation
    hypothesis: Hypothesis


def hypotheses(trial: Trial) -> Iterator[Ranked]:
    """Yield every hypothesis about a tap with its surprise; one that cannot be worked out is left out."""
    every = ((row, one) for row in TRANSFORMATIONS for one in of_row(row, trial))
    for order, (row, one) in enumerate(every):
        found = result_of(trial, one) if len(trial.at) >= one.least else None
        if found is not None:
            penalty = one.free * math.log(max(len(trial.at), 2))
            yield Ranked(surprise_of(trial, *found) + penalty, order, row, one)


def of_row(row: Transformation, trial: Trial) -> Iterator[Hypothesis]:
    """Yield the hypotheses of a row, as far as it finds what it asks for: of an operation alone little is given."""
    if row.recomputes and not affordable(trial.shown):
        return
    with contextlib.suppress(IndexError, KeyError, ValueError):
        yield from row.hypotheses(trial)


def affordable(shown: ShownTap) -> bool:
    """Return whether an operation may be applied again a hundred times: of a large one only values are looked at."""
    weights = [shown.weight(name).size for name in shown.matrices]
    return shown.observed.size <= LARGEST_TAP and max(weights, default=0) <= LARGEST_WEIGHT


def result_of(trial: Trial, one: Hypothesis) -> tuple[Array, Array] | None:
    """Return what a hypothesis gives for a tap and its deviation, None where it gives nothing of that shape."""
    try:
        value, deviation = one.make(trial.shown)
    except (ArithmeticError, IndexError, KeyError, ValueError):
        return None
    return (value, deviation) if value.shape == trial.shown.observed.shape else None


def errors_of(trial: Trial, value: Array, deviation: Array) -> tuple[Array, Array]:
    """Return how far what was observed is from some values, in deviations, and those [n]."""
    shown, at = trial.shown, trial.at
    observed = shown.observed.ravel()[at]
    spread = noise_of(shown, np.broadcast_to(deviation, shown.observed.shape).ravel()[at], observed)
    with np.errstate(over="ignore", invalid="ignore"):
        errors = np.abs(observed - value.ravel()[at]) / spread
    return np.minimum(np.nan_to_num(errors, nan=LARGEST_ERROR), LARGEST_ERROR), spread


def surprise_of(trial: Trial, value: Array, deviation: Array) -> float:
    """Return how surprising what was observed is, in units of −ln likelihood, as `checks.likelihood` has it."""
    errors, spread = errors_of(trial, value, deviation)
    return float((np.log(spread) + np.log1p(np.square(errors))).sum())


def explains(trial: Trial, one: Hypothesis) -> bool:
    """Return whether nearly all failing values of a tap are what a hypothesis gives, to within honest noise."""
    if len(trial.at) < one.least:
        return True
    found = result_of(trial, one)
    if found is None:
        return False
    errors, _ = errors_of(trial, *found)
    if trial.faint:
        return float(np.square(errors).mean()) <= FAINT_SIZE
    return float((errors <= FACTOR).mean()) >= EXPLAINED
