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
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import Fence

CLUSTER_BITS = 12
NUM_CLUSTERS = 2**CLUSTER_BITS
"""K: few enough for the processor's cache. What all err in common widens the standard error too, so that a score of s
shows as s / √(1 + s² / K), which is 0.6 % less where s is 7."""

MIXER = np.uint32(2654435761)
"""An odd number near 2³² / φ: multiplying by it spreads the bits of a value over the upper ones (Knuth, §6.4)."""

OCTAVES = (-4, 12)
"""The lowest and highest power of two that bounds a bin of arguments; what lies beyond joins the outermost bins."""

NUM_OCTAVES = 2 * (OCTAVES[1] - OCTAVES[0] + 1)


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


@dataclass
class Sums:
    """What a direction sums over some elements, by bin: residual · direction by cluster, direction², the floor's terms.

    terms float64 [bins, clusters], information and floor float64 [bins].
    """

    terms: Array
    information: Array
    floor: Array

    @staticmethod
    def zero(num_bins: int) -> Sums:
        """Return the sums over nothing."""
        return Sums(np.zeros((num_bins, NUM_CLUSTERS)), np.zeros(num_bins), np.zeros(num_bins))

    def add_terms(self, cluster: Array, bins: Array | None, terms: Array) -> None:
        """Add residual · direction of elements, all [n], of one bin (None) or each of its own."""
        place = cluster if bins is None else bins * NUM_CLUSTERS + cluster
        sums = np.bincount(place, terms)  # np.add.at would keep all other threads waiting
        self.terms.reshape(-1)[: sums.size] += sums

    def add_weights(self, bins: Array | None, squares: Array, floor: Array | None) -> None:
        """Add direction² and the terms of the floor of elements, all [n]; `floor` None is 0 everywhere."""
        self.information += squares.sum() if bins is None else np.bincount(bins, squares, len(self.terms))
        if floor is not None:
            self.floor += floor.sum() if bins is None else np.bincount(bins, floor, len(self.terms))

    def absorb(self, other: Sums) -> None:
        """Add the sums over other elements, which have the same bins and clusters."""
        for i in np.flatnonzero(other.information):
            self.terms[i] += other.terms[i]
        self.information += other.information
        self.floor += other.floor


def weight_of(fence: Fence, scored: Array) -> Array:
    """Return 1 / deviation where an element is scored, which whitens its error, and 0 elsewhere."""
    if scored.all():
        return 1 / fence.deviation
    return np.divide(1, fence.deviation, out=np.zeros_like(fence.deviation), where=scored)


def conclude(directions: Mapping[str, Sums], allowed: float) -> tuple[Systematic, ...]:
    """Return the statistic of every direction, and of every bin of it, along which something errs."""
    found = []
    for name, sums in directions.items():
        occurring = np.flatnonzero(sums.information)
        whole = sums.terms[occurring].sum(0), sums.information.sum(), sums.floor.sum()
        each = [(f"{name} {octave(int(i))}", sums.terms[i], sums.information[i], sums.floor[i]) for i in occurring]
        found += [(name, *whole), *(each if len(sums.information) > 1 else [])]
    return tuple(
        Systematic(
            name=name,
            coefficient=float(terms.sum() / information),
            standard_error=math.sqrt(float(terms @ terms)) / float(information),
            floor=float(floor / information),
            information=float(information),
            allowed=allowed,
        )
        for name, terms, information, floor in found
        if terms.any()
    )


def add_directions(
    directions: dict[str, Sums],
    residual: Array,
    where: Array | slice,
    weight: Array,
    exact: Exact,
    fence: Fence,
    recorded: str,
) -> None:
    """Add to the sums of every direction the elements that have a weight (`weight_of`); all arrays are flat.

    `residual` is the whitened error of some of them, at `where`; the others do not err, but say as much of what the
    whole tap errs in common. The value's own direction is binned by octaves of the argument.
    """
    if fence.common is None:
        return
    gain = exact.value * weight  # 0 where no element is scored, as all that follows
    common = fence.common * weight if fence.common.any() else None
    bins = None if exact.argument is None else octaves_of(exact.argument)
    if not directions:
        directions |= {"gain": Sums.zero(1 if bins is None else NUM_OCTAVES), "bias": Sums.zero(1)}
    floor = None if common is None else np.abs(gain) * common
    directions["gain"].add_weights(bins, np.square(gain), floor)
    directions["bias"].add_weights(None, weight > 0, common)
    if not residual.any():
        return
    cluster = cluster_of(exact.value[where], recorded)
    directions["gain"].add_terms(cluster, None if bins is None else bins[where], residual * gain[where])
    directions["bias"].add_terms(cluster, None, residual)


def merge_directions(parts: Iterable[dict[str, Sums]]) -> dict[str, Sums]:
    """Return the sums of every direction over all parts, of which some may have none; uses the parts up."""
    merged: dict[str, Sums] = {}
    for part in parts:
        for name, sums in part.items():
            if name in merged:
                merged[name].absorb(sums)
            else:
                merged[name] = sums
    return merged


def cluster_of(value: Array, recorded: str) -> Array:
    """Return the cluster of every value, an integer below NUM_CLUSTERS: the same for values that round to the same.

    Other values share clusters by chance, which costs a little power only.
    """
    with np.errstate(over="ignore"):
        rounded = value.astype(np.float32).astype(DTYPES[recorded], copy=False)
    bits = rounded.view(f"u{rounded.itemsize}").astype(np.uint32, copy=False)
    return (bits * MIXER >> np.uint32(32 - CLUSTER_BITS)).astype(np.intp)


def octaves_of(argument: Array) -> Array:
    """Return the bin of every argument, an integer below NUM_OCTAVES: one per sign and power of two.

    The bits of a float64 are its sign, 11 of the exponent (0 for 0, else 1023 above it) and 52 of the fraction.
    """
    lowest, highest = (1023 + exponent for exponent in OCTAVES)
    bits = argument.view(np.int64)
    exponent = np.clip(bits >> 52 & 0x7FF, lowest, highest)
    number: Array = 2 * (exponent - lowest) + (bits < 0)
    return number


def octave(number: int) -> str:
    """Return the name of a bin of arguments: `near -0.5`."""
    return f"near {'-' if number % 2 else ''}{2.0 ** (OCTAVES[0] + number // 2):g}"


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
