"""What is said of the fault behind a failing operation: the likeliest one, by how much, where and what to change."""

from __future__ import annotations

import math
from dataclasses import dataclass

DECISIVE = 2.0
"""log10 of the likelihood ratio by which a fault must beat another, or none at all, to be named without it."""

TOLERANCE = 0.01
"""How far the coefficient of the right fault may be from 1 beyond four standard errors, since a fence is no more than a
model: of the faults of the table, put into a port, none is farther than 0.006 beyond them."""


@dataclass(frozen=True)
class Diagnosis:
    """What the matched filter says of one operation.

    `faults` is the likeliest fault with all that the data cannot tell from it, empty where no known fault explains the
    residual. The other figures are those of the likeliest one: its coefficient (1 for the right fault, 0 for none) with
    a heteroscedasticity-robust standard error, the share of the weighted residual that it explains (0..1), and log10 of
    the likelihood ratio to the runner-up, which is a fault or "no fault".

    `place` says in words where in the data the operation fails, empty where it fails throughout or nothing is clear.
    `resembles` says what the failing values are right for, which is told where no known fault explains them, and
    `remedy` what to change then; it `relabels` where the right values merely stand in another order. `num_tokens` is by
    how many tokens of equal weight the coefficient is told, where they share hidden noise. `left_over` is the mean
    square of what the likeliest fault leaves, 1 for honest noise. The fault is `partly` there where it tells the values
    that fail, and others, which it would change too, are right: another fault may give these values as well.
    """

    faults: tuple[str, ...]
    likeliest: str
    coefficient: float
    standard_error: float
    explained: float
    log10_ratio: float
    runner_up: str
    place: str = ""
    resembles: str = ""
    remedy: str = ""
    relabels: bool = False
    num_tokens: float = math.inf
    left_over: float = math.inf
    partly: bool = False

    @property
    def is_faint(self) -> bool:
        """Whether the likeliest fault fits and leaves nothing, and too little shows it to be named by that alone."""
        fits = abs(self.coefficient - 1) <= TOLERANCE + 4 * self.standard_error
        return not self.faults and fits and self.log10_ratio > DECISIVE and self.left_over <= 1


LARGEST_RATIO = 6.0
"""log10 of the likelihood ratio beyond which no digits are shown."""


def describe(diagnosis: Diagnosis) -> str:
    """Return a diagnosis in one line for a reader."""
    where = f"; {diagnosis.place}" if diagnosis.place else ""
    if not diagnosis.faults:
        known = "no known fault explains this"
        return known + (f"; the failing values are {diagnosis.resembles}" if diagnosis.resembles else "") + where
    names = "likely " + " or ".join(diagnosis.faults) + (", in part of the values" if diagnosis.partly else "")
    if math.isnan(diagnosis.coefficient):
        return f"{names}, which gives this shape"
    digits = 10 ** round(min(diagnosis.log10_ratio, LARGEST_RATIO))
    ratio = "more than a million" if diagnosis.log10_ratio > LARGEST_RATIO else f"{digits:,}"
    return (
        f"{names}, coefficient {diagnosis.coefficient:.3g} ± {diagnosis.standard_error:.1g}, "
        f"explains {diagnosis.explained:.1%}, {ratio} to 1 before {diagnosis.runner_up}{where}"
    )
