"""The systematic statistic: what all elements of a tap err in common, far below the rounding of any one of them.

Every statistic is a weighted least-squares coefficient c of the error along a direction: the value itself (`gain`), the
deviation of honest noise (`bias`), or the value where the argument of the operation lies in one octave. Its standard
error is robust to heteroscedasticity and to clusters, so that c over it is a self-normalised sum: for independent
errors of either sign it exceeds λ with probability 2·exp(-λ²/2) at most, whatever their sizes (Hoeffding's inequality,
given their magnitudes). The error of a rounding is a function of the value, hence values that round to the same one are
one cluster: a thousand weights near 1/7 err alike.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from harness.contract import Array
from harness.noise import Fence
from harness.operations.arithmetic import round_to
from harness.operations.row import Exact

OCTAVES = (-4, 12)
"""The lowest and highest power of two that bounds a bin of arguments; what lies beyond joins the outermost bins."""


@dataclass(frozen=True)
class Systematic:
    """How far a tap errs along one direction, in units of that direction.

    `coefficient` ± `standard_error` is what was measured, `floor` what a library function or a sum that a whole row
    shares may add to it. `information` is the weight of the measurement when several are pooled, `allowed` how many
    standard errors may be exceeded.
    """

    name: str
    coefficient: float
    standard_error: float
    floor: float
    information: float
    allowed: float

    @property
    def score(self) -> float:
        """The coefficient beyond the floor in standard errors, with its sign."""
        beyond = max(0.0, abs(self.coefficient) - self.floor)
        return math.copysign(beyond / self.standard_error, self.coefficient) if beyond else 0.0

    @property
    def ratio(self) -> float:
        """Measured / allowed."""
        return abs(self.score) / self.allowed


def systematic(error: Array, exact: Exact, fence: Fence, scored: Array, recorded: str) -> tuple[Systematic, ...]:
    """Return every systematic statistic of a tap's signed error, over the elements that are scored.

    Directions along which nothing errs are left out.
    """
    if fence.common is None or not error[scored].any():
        return ()
    residual, gain, common = (x[scored] / fence.deviation[scored] for x in (error, exact.value, fence.common))
    with np.errstate(over="ignore"):
        cluster = np.unique(round_to(exact.value[scored], recorded), return_inverse=True)[1]
    directions = [("gain", gain), ("bias", np.ones_like(gain))]
    if exact.argument is not None:
        directions += [(f"gain {name}", gain * chosen) for name, chosen in octaves(exact.argument[scored])]
    found = (project(name, residual, along, common, cluster, fence.factor) for name, along in directions)
    return tuple(one for one in found if one is not None)


def project(
    name: str, residual: Array, direction: Array, common: Array, cluster: Array, allowed: float
) -> Systematic | None:
    """Return the coefficient of whitened residuals along a direction, all [n]; None where they are all 0."""
    terms = np.bincount(cluster, residual * direction)
    if not terms.any():
        return None
    information = float(direction @ direction)
    return Systematic(
        name=name,
        coefficient=float(terms.sum()) / information,
        standard_error=math.sqrt(float(terms @ terms)) / information,
        floor=float(np.abs(direction) @ common) / information,
        information=information,
        allowed=allowed,
    )


def octaves(argument: Array) -> Iterator[tuple[str, Array]]:
    """Yield the name and the elements of every bin of arguments: one per sign and power of two."""
    lowest, highest = OCTAVES
    with np.errstate(divide="ignore"):
        exponent = np.clip(np.floor(np.log2(np.abs(argument))), lowest, highest).astype(int)
    for sign, negative in (("", False), ("-", True)):
        for power in np.unique(exponent[np.signbit(argument) == negative]):
            yield f"near {sign}{2.0**power:g}", (exponent == power) & (np.signbit(argument) == negative)


def pooled(found: Iterable[Systematic]) -> tuple[Systematic, ...]:
    """Pool the statistics of the same name, of several layers and cases, as independent measurements."""
    by_name: dict[str, list[Systematic]] = {}
    for one in found:
        by_name.setdefault(one.name, []).append(one)
    return tuple(_pool(name, each) for name, each in by_name.items())


def _pool(name: str, found: list[Systematic]) -> Systematic:
    information = sum(x.information for x in found)
    return Systematic(
        name=name,
        coefficient=sum(x.coefficient * x.information for x in found) / information,
        standard_error=math.sqrt(sum((x.standard_error * x.information) ** 2 for x in found)) / information,
        floor=sum(x.floor * x.information for x in found) / information,
        information=information,
        allowed=found[0].allowed,
    )
