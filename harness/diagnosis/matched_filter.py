"""Names the fault behind a failing operation: a matched filter over the fault table (ARCHITECTURE: class of faults).

At the port's own inputs every known fault predicts a difference d = faulty − exact. The residual r = observed − exact
of the right fault is d and honest noise; of an honest port it is noise alone. Both are weighted by the noise model's
deviation, so that a difference far below the rounding of single elements still shows over many of them.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.fit import Fit, fit, tokens_of
from grok_conformance.harness.diagnosis.likely_fault import DECISIVE, TOLERANCE, Diagnosis
from grok_conformance.harness.diagnosis.prediction import Prediction, predict
from grok_conformance.harness.faults import ALL_FAULTS, Fault
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.noise import Fence

SAME_DIRECTION = 0.99
"""Cosine beyond which no data of the run tells two faults apart."""

DISTANCE = math.sqrt(2 * (1 - SAME_DIRECTION))
"""The relative distance of two equally long differences at that cosine: differences closer than that are one class."""

NUM_WHERE_HIDDEN = 4
"""Cases from which a fault is named where taps are hidden."""

NUM_EXHIBITS = 24
"""Cases from which it is named where all taps are shown: each costs an evaluation of every fault."""

MAX_STANDARD_ERROR = 0.15
"""Standard error of a coefficient beyond which a fault is not named, unless it explains most of what is left."""


def diagnose(
    exhibits: Sequence[Exhibit],
    comparisons: Sequence[Sequence[Comparison]],
    operations: Collection[str],
    faults: Mapping[str, Fault] = ALL_FAULTS,
    *,
    in_part: bool = True,
) -> dict[str, Diagnosis]:
    """Return the diagnosis of some operations, over the layers that failed (all if none did) of all exhibits.

    `comparisons` are the local checks of each exhibit. An operation that was nowhere shown has no diagnosis. Where no
    fault explains all values, those that fail are asked by themselves, if they may be asked `in_part`.
    """
    name = name_in_part if in_part else name_fault
    layers = {
        operation: {c.layer for found in comparisons for c in found if c.operation == operation and not c.passed}
        for operation in operations
    }
    residuals: dict[str, list[Residual]] = {operation: [] for operation in operations}
    shapes: dict[str, list[frozenset[str]]] = {operation: [] for operation in operations}
    for exhibit in telling(exhibits, comparisons, operations):
        for prediction in predict(exhibit, layers, faults):
            if prediction.key in exhibit.evidence.observed:
                residuals[prediction.operation].append(residual_of(exhibit, prediction))
            elif prediction.key in exhibit.evidence.misshapen:
                shape = exhibit.evidence.misshapen[prediction.key]
                shapes[prediction.operation].append(
                    frozenset(name for name, x in prediction.faulty.items() if x.value.shape == shape)
                )
    return {
        operation: name(residuals[operation]) if residuals[operation] else name_shape(shapes[operation])
        for operation in operations
        if residuals[operation] or shapes[operation]
    }


def telling(
    exhibits: Sequence[Exhibit], comparisons: Sequence[Sequence[Comparison]], operations: Collection[str]
) -> list[Exhibit]:
    """Return the exhibits from which operations are diagnosed: where they fail, then others; few where taps are hidden.

    There every fault takes a walk through the model, and every fence many.
    """
    failing = [
        x
        for x, found in zip(exhibits, comparisons, strict=True)
        if not all(c.passed for c in found if c.operation in operations)
    ]
    if any(exhibit.hides_taps for exhibit in exhibits):
        return (failing or list(exhibits))[:NUM_WHERE_HIDDEN]
    cases = {x.case.id for x in failing}
    return [*failing, *(x for x in exhibits if x.case.id not in cases)][:NUM_EXHIBITS]


@dataclass(frozen=True)
class Residual:
    """One tap: observed − exact, and faulty − exact by fault, both in standard deviations, where compared: [n].

    `tokens` int [n] says which values share a token whose hidden noise they share, None where their noise is their own.
    `failing` bool [n] are the values of features, or keys, of which one is beyond its fence.
    """

    observed: Array
    faulty: Mapping[str, Array]
    failing: Array
    tokens: Array | None = None

    def in_part(self) -> Residual:
        """Return what fails alone, with all beside it that is computed at once."""
        at = self.failing
        tokens = None if self.tokens is None else self.tokens[at]
        return Residual(self.observed[at], {name: x[at] for name, x in self.faulty.items()}, at[at], tokens)


def residual_of(exhibit: Exhibit, prediction: Prediction) -> Residual:
    """Weight the residual of one tap and its faults' differences; chosen experts count as one-hot vectors."""
    seen, exact = exhibit.evidence.observed[prediction.key], prediction.exact.value
    mask = prediction.mask & np.isfinite(seen.raw)
    if prediction.operation == exhibit.evidence.graph.choice:
        experts = np.arange(exhibit.evidence.config.model.num_experts)

        def measured(x: Array) -> Array:
            hot: Array = (x[mask][:, None] == experts).astype(np.float64).ravel()
            return hot

    else:
        deviation = deviation_of(prediction.fence, seen.raw, seen.recorded)[mask]

        def measured(x: Array) -> Array:
            weighted: Array = x[mask] / deviation
            return weighted

    fits = {
        name: nearest_step(x, prediction.exact, seen.raw)
        for name, x in prediction.faulty.items()
        if x.value.shape == mask.shape
    }
    made = {name: measured(x) - measured(exact) for name, x in fits.items()}
    observed = measured(seen.raw) - measured(exact)
    rows = (
        None if prediction.noise is None else tokens_of(mask, exhibit.evidence.graph.specs[prediction.operation].axes)
    )
    beyond = mask & (np.abs(seen.raw - exact) > prediction.fence.allowed)
    failing = np.broadcast_to(beyond.any(-1, keepdims=True), mask.shape)[mask]
    num_each = observed.size // max(failing.size, 1)
    return Residual(observed, made, np.repeat(failing, num_each), None if rows is None else np.repeat(rows, num_each))


def nearest_step(faulty: Exact, exact: Exact, observed: Array) -> Array:
    """Return what a fault gives: where it may jump, and honest arithmetic does not, what was observed as far as it may.

    A quantised value that lies between two steps may have fallen on either.
    """
    jump = np.maximum(np.asarray(faulty.jump) - np.asarray(exact.jump), 0.0)
    if not jump.any():
        return faulty.value
    nearest: Array = np.clip(observed, faulty.value - jump, faulty.value + jump)
    return nearest


def deviation_of(fence: Fence, observed: Array, recorded: str) -> Array:
    """Return the standard deviation of honest noise, the rounding of what was observed included.

    A fault may make elements much larger than they should be, or fill those that should be 0; they carry the rounding
    of their own size.
    """
    rounding = max(UNIT_ROUNDOFF[recorded], UNIT_ROUNDOFF["float32"]) * np.abs(observed) / math.sqrt(3)
    deviation: Array = np.maximum(fence.deviation, rounding) + np.finfo(np.float32).tiny
    return deviation


def name_in_part(residuals: Sequence[Residual]) -> Diagnosis:
    """Return the likeliest fault of all values, or of those that fail where no fault explains all.

    A port may be wrong in one kind of call, one expert or one row alone: `place` tells which.
    """
    found = name_fault(residuals)
    failing = [residual.in_part() for residual in residuals if residual.failing.any()]
    if found.faults or not failing:
        return found
    part = name_fault(failing)
    return replace(part, partly=True) if part.faults else found


def name_fault(residuals: Sequence[Residual]) -> Diagnosis:
    """Return the likeliest fault, with those that the data cannot tell from it, or that none explains the residual."""
    observed = np.concatenate([residual.observed for residual in residuals])
    names = [name for name in residuals[0].faulty if all(name in residual.faulty for residual in residuals)]
    faulty = {name: np.concatenate([residual.faulty[name] for residual in residuals]) for name in names}
    tokens = tokens_of_all(residuals)
    fits = {name: fit(observed, d, tokens) for name, d in faulty.items() if d.any()}
    total = float(observed @ observed)
    if not fits or not total:
        return UNEXPLAINED
    likeliest = min(fits, key=lambda name: fits[name].remainder)
    best = fits[likeliest]
    variance = max(1.0, best.remainder / observed.size)

    def log10_ratio(remainder: float) -> float:
        return (remainder - best.remainder) / (2 * variance * math.log(10))

    length = float(np.linalg.norm(faulty[likeliest]))
    same = [
        name
        for name in fits
        if np.linalg.norm(faulty[name] - faulty[likeliest]) <= DISTANCE * length
        or log10_ratio(fits[name].remainder) < DECISIVE
    ]
    others = {name: found.remainder for name, found in fits.items() if name not in same} | {"no fault": total}
    runner_up = min(others, key=others.__getitem__)
    return Diagnosis(
        faults=tuple(same) if explains(best, observed, log10_ratio(total)) else (),
        likeliest=likeliest,
        coefficient=best.coefficient,
        standard_error=best.standard_error,
        explained=1 - best.remainder / total,
        log10_ratio=log10_ratio(others[runner_up]),
        runner_up=runner_up,
        num_tokens=best.num_tokens,
        left_over=best.remainder / observed.size,
    )


def tokens_of_all(residuals: Sequence[Residual]) -> Array | None:
    """Return which values of all residuals share a token, None where the noise of each is its own."""
    if all(residual.tokens is None for residual in residuals):
        return None
    found, first = [], 0
    for residual in residuals:
        tokens = np.arange(residual.observed.size) if residual.tokens is None else residual.tokens
        found.append(first + tokens)
        first += int(tokens.max(initial=0)) + 1
    return np.concatenate(found)


def name_shape(candidates: Sequence[frozenset[str]]) -> Diagnosis:
    """Return the faults that give every tap of an operation the shape it has; there are no values to compare."""
    common = sorted(frozenset.intersection(*candidates))
    return Diagnosis(tuple(common), common[0] if common else "", math.nan, math.nan, math.nan, math.nan, "no fault")


UNEXPLAINED = Diagnosis((), "", 0.0, 0.0, 0.0, 0.0, "no fault")


def explains(best: Fit, observed: Array, log10_ratio: float) -> bool:
    """Return whether a fault explains a residual: decisively likelier than none, of full strength, no more left over.

    What is left over must be honest noise, or no more than two faults of one class differ by.
    """
    total = float(observed @ observed)
    strength = abs(best.coefficient - 1) <= TOLERANCE + 4 * best.standard_error
    known = best.standard_error <= MAX_STANDARD_ERROR or 1 - best.remainder / total > 1 / 2
    return (
        log10_ratio > DECISIVE
        and strength
        and known
        and (best.remainder <= observed.size or best.remainder <= DISTANCE**2 * total)
    )
