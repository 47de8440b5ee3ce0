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
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from harness.contract import DTYPES, Array
from harness.noise import Fence
from harness.operations.row import Exact

NUM_CLUSTERS = 2**16

MIXER = np.uint32(2654435761)
"""An odd number near 2³² / φ: multiplying by it spreads the bits of a float32 over the upper half (Knuth, §6.4)."""

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


@dataclass(frozen=True)
class Sums:
    """What a direction sums over some elements: residual · direction by cluster, direction², and terms of the floor."""

    terms: Array
    information: float
    floor: float

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over both, which have the same clusters."""
        return Sums(self.terms + other.terms, self.information + other.information, self.floor + other.floor)


def systematic(error: Array, exact: Exact, fence: Fence, scored: Array, recorded: str) -> tuple[Systematic, ...]:
    """Return every systematic statistic of a tap's signed error, over the elements that are scored.

    Directions along which nothing errs are left out.
    """
    return conclude(direction_sums(error, exact, fence, scored, recorded, alone=True), fence.factor)


def conclude(directions: Mapping[str, Sums], allowed: float) -> tuple[Systematic, ...]:
    """Return the statistic of every direction along which something errs."""
    return tuple(
        Systematic(
            name=name,
            coefficient=float(sums.terms.sum()) / sums.information,
            standard_error=math.sqrt(float(sums.terms @ sums.terms)) / sums.information,
            floor=sums.floor / sums.information,
            information=sums.information,
            allowed=allowed,
        )
        for name, sums in directions.items()
        if sums.terms.any()
    )


def direction_sums(
    error: Array, exact: Exact, fence: Fence, scored: Array, recorded: str, *, alone: bool
) -> dict[str, Sums]:
    """Return the sums of every direction over the elements that are scored, whitened by their deviation.

    `alone` where they are not merged with others: only the clusters that occur are kept then.
    """
    if fence.common is None or not error.any():
        return {}

    def take(x: Array) -> Array:
        return x.ravel() if all_scored else x[scored]

    all_scored = bool(scored.all())
    deviation = take(fence.deviation)
    residual, gain, common = (take(x) / deviation for x in (error, exact.value, fence.common))
    cluster = cluster_of(take(exact.value), recorded)
    if alone:
        cluster = np.unique(cluster, return_inverse=True)[1]

    def sums(along: Array, chosen: Array | slice) -> Sums:
        direction = along[chosen]
        terms = np.bincount(cluster[chosen], residual[chosen] * direction, minlength=0 if alone else NUM_CLUSTERS)
        floor = float((np.abs(direction) * common[chosen]).sum())
        return Sums(terms, float(np.square(direction).sum()), floor)

    found = {"gain": sums(gain, slice(None)), "bias": sums(np.ones_like(gain), slice(None))}
    if exact.argument is not None:
        found |= {f"gain {name}": sums(gain, np.flatnonzero(where)) for name, where in octaves(take(exact.argument))}
    return found


def merge_directions(one: Mapping[str, Sums], other: Mapping[str, Sums]) -> dict[str, Sums]:
    """Return the sums of every direction of either, added where both have it."""
    return {
        name: one[name] + other[name] if name in one and name in other else one.get(name) or other[name]
        for name in dict.fromkeys((*one, *other))
    }


def cluster_of(value: Array, recorded: str) -> Array:
    """Return the cluster of every value, an integer below NUM_CLUSTERS: the same for values that round to the same.

    A 16-bit dtype has as many values; float32 values share clusters by chance, which costs a little power only.
    """
    with np.errstate(over="ignore"):
        rounded = value.astype(np.float32)
        if recorded in ("bfloat16", "float16"):
            return rounded.astype(DTYPES[recorded]).view(np.uint16).astype(np.intp)
    bits = rounded.view(np.uint32)
    return ((bits * MIXER) >> np.uint32(16)).astype(np.intp)


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
