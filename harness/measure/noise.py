"""The noise model: how far each element of an operation may honestly stray (ARCHITECTURE: fence), and draws of it.

Elementwise roundings are bounded; sums are bounded at λ standard deviations, λ set so that the expected number of
honest elements outside their fences in a whole run is at most the run's false-alarm rate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.row import Exact

FALSE_ALARM_RATE = 1e-3
"""α: the chance that a whole run of an honest candidate reports a fault."""

BULK_DEVIATIONS = 6.0
"""How many of its standard deviations the root mean square of a tap's errors may exceed 1."""

SAFETY = 6.0
"""How many honest errors (RMS over a token's features) a port may err by end to end; honest ones stay below 5."""

NUM_RUNS = 8
"""Noisy runs of the oracle from which the honest error of every token is measured."""

NUM_DEVIATING_RUNS = 64
"""As many for an oracle with known deviations: a coarse inner rounding that goes the other way is large and rare."""

NUM_SIMULATIONS = 32
"""Noisy walks from which the fence of a segment (operations around hidden taps) is measured."""

FLIP_ALARM_RATE = 1e-6
"""α of one case: the chance that so many other choices of experts are honest, below which they are a fault."""

MODEL_FACTOR = 2.0
"""How far the error of an honest port may exceed the modelled one, where the chance of another choice is worked out."""

USED_SHARE = 0.5
"""How much of their bound the roundings of a port use, where its power is predicted.

A fence allows all of it. A port that used it all would be pushed over its fences by next to nothing (by 2⁻¹⁷ of gelu by
erf; with half of it by 2⁻¹⁰), and real ports, which stay far inside, would be said to be.
"""

ACCUMULATION_ROUNDOFF = UNIT_ROUNDOFF["float32"]
"""u of the arithmetic inside an operation: float32 in every conforming port (SPEC §4)."""


def tail_factor(num_elements: int) -> float:
    """Return λ for a run that compares so many elements: √(2 ln(2N/α)), the Gaussian tail bound over all of them."""
    return math.sqrt(2 * math.log(2 * max(num_elements, 1) / FALSE_ALARM_RATE))


def margin(num_elements: int) -> float:
    """Return λ·u(float32)/√3: the reach of a float32 sum in units of its spread, for jumps of inner roundings."""
    return tail_factor(num_elements) * ACCUMULATION_ROUNDOFF / math.sqrt(3)


def closed_by(error: Array) -> Array:
    """Return how much of a gap between two values honest rounding can close: both may stray by so many errors."""
    return 2 * SAFETY * error


@dataclass(frozen=True)
class Fence:
    """How far each element may stray, and its standard deviation under honest rounding; shapes of the tap, float64.

    `common` bounds the error that elements may have in common: that of a library function, or of a sum that a whole
    row shares; None where nothing is known of it. `factor` is λ.
    """

    allowed: Array
    deviation: Array
    common: Array | None
    factor: float


def fence_of(exact: Exact, recorded: str, factor: float) -> Fence:
    """Return the fence of an operation whose result is recorded in a dtype, at λ = factor.

    One rounding to the recorded dtype, the bounded roundings inside, λ deviations of the sums, what inner roundings
    can jump by, and the smallest normal number (flush-to-zero and −0 are honest). An operation that computes nothing
    (bound, spread and jump all 0) may only be rounded when the cache is narrower than what it stores.
    """
    tiny = SMALLEST_NORMAL[recorded]
    rounding = max(ACCUMULATION_ROUNDOFF, UNIT_ROUNDOFF[recorded]) * np.abs(exact.value)
    allowed = rounding + tiny
    bound = ACCUMULATION_ROUNDOFF * np.asarray(exact.bound)
    spread = ACCUMULATION_ROUNDOFF * np.asarray(exact.spread)
    reach = factor / math.sqrt(3)  # of a sum, in spreads
    errors = ((bound, 1, 1 / 3), (spread, reach, 1 / 3), (exact.jump, 1, 1), (exact.inherited, factor, 1))
    # Most are the number 0, and a pass over the tap costs as much as a comparison.
    present = [(error, times, share) for error, times, share in errors if np.ndim(error) or error]
    deviation = rounding / math.sqrt(3) + tiny
    if present:
        variance = np.square(deviation)
        for error, times, share in present:
            allowed += times * error
            variance += share * np.square(error)
        deviation = np.sqrt(variance)
    if np.ndim(exact.inherited):  # it is correlated from element to element in ways that nothing is known of
        return Fence(allowed, deviation, None, factor)
    common = np.broadcast_to(bound + reach * spread if exact.shared else bound, allowed.shape)
    return Fence(allowed, deviation, common, factor)


def computed(exact: Exact, share: float, random: np.random.Generator) -> Array:
    """Return what an honest port computes, before it rounds to a tap's dtype: the one model of its noise.

    Written down in golden/README.md, noise.json: the elementwise roundings lie anywhere within a share of their bound;
    sums, and inputs that are not shown, are normal. No inner rounding jumps: few elements can, and those rarely do.
    """
    if not any(np.any(error) for error in (exact.bound, exact.spread, exact.inherited)):
        return exact.value  # a copy, or a choice of experts: there is nothing to draw
    shape = exact.value.shape
    deviation = np.hypot(ACCUMULATION_ROUNDOFF / math.sqrt(3) * np.asarray(exact.spread), exact.inherited)
    noise = share * ACCUMULATION_ROUNDOFF * np.asarray(exact.bound) * random.uniform(-1, 1, shape)
    noise += deviation * random.standard_normal(shape)
    return exact.value + noise


def honest_result(exact: Exact, recorded: str, random: np.random.Generator) -> Array:
    """Return one draw of what an honest port shows: what it computes, rounded to the dtype of the tap, as float64."""
    return round_to(computed(exact, USED_SHARE, random), recorded)


def disturb(exact: Exact, recorded: str, random: np.random.Generator) -> Array:
    """Return one of many draws from which it is measured how far ports may honestly stray: all that a fence allows.

    The rounding is drawn like all else: one that is made would be the same in every draw where the inputs are.
    """
    rounding = UNIT_ROUNDOFF[recorded] * np.abs(exact.value)
    return computed(exact, 1.0, random) + rounding * random.uniform(-1, 1, exact.value.shape)
