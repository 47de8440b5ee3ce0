"""Bounds on a probability from a count (Clopper and Pearson 1934)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple


class Interval(NamedTuple):
    """A confidence interval of a probability."""

    low: float
    high: float


def clopper_pearson(num_hits: int, num_trials: int, confidence: float = 0.95) -> Interval:
    """Return the exact binomial interval of so many hits in so many trials."""
    tail = (1 - confidence) / 2
    at_least = _root(lambda p: 1 - _at_most(num_hits - 1, num_trials, p) - tail) if num_hits else 0.0
    at_most = _root(lambda p: tail - _at_most(num_hits, num_trials, p)) if num_hits < num_trials else 1.0
    return Interval(at_least, at_most)


def _at_most(hits: int, trials: int, probability: float) -> float:
    """Return the chance of at most so many hits."""
    if probability in {0.0, 1.0}:
        return float(probability == 0.0 or hits >= trials)
    log_p, log_q = math.log(probability), math.log1p(-probability)
    choose = math.lgamma(trials + 1)
    return math.fsum(
        math.exp(choose - math.lgamma(k + 1) - math.lgamma(trials - k + 1) + k * log_p + (trials - k) * log_q)
        for k in range(hits + 1)
    )


def _root(rising: Callable[[float], float]) -> float:
    """Return where a rising function of a probability is 0, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return high
