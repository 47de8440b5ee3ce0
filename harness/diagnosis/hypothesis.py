"""A hypothesis about failing values, and the failing values on which it is tried."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis.shown_tap import ShownTap

MAX_VALUES = 4000
"""Failing values of one tap that are looked at."""

Make = Callable[[ShownTap], tuple[Array, Array]]
"""Gives for a tap what it would hold, and the deviation of honest noise about that."""


@dataclass(frozen=True)
class Trial:
    """A tap and the elements of it, flat int [n], on which hypotheses are tried; `faint` where none of them fails."""

    shown: ShownTap
    at: Array
    faint: bool


@dataclass(frozen=True)
class Hypothesis:
    """What failing values may be: in words, as a function of a tap, and how many numbers were fitted for it.

    A hypothesis `relabels` where the right values are merely at other places, each once. It takes at least so many
    values to tell: fewer speak neither for it nor against it.
    """

    words: str
    make: Make
    free: int = 0
    relabels: bool = False
    least: int = 1


def trial_of(shown: ShownTap) -> Trial:
    """Return a tap with the elements on which hypotheses are tried: those that fail, all where none does."""
    faint = not shown.wrong.any()
    at = np.flatnonzero((shown.compared if faint else shown.wrong) & np.isfinite(shown.observed))
    return Trial(shown, at[:: max(1, len(at) // MAX_VALUES)], faint)
