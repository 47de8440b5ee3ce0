"""The systematic statistic: what all elements of a tap err in common, far below the rounding of any one of them.

Every statistic is a weighted least-squares coefficient c of the error along a direction: the value itself (`gain`), the
deviation of honest noise (`bias`), or the value where the argument of the operation lies in one octave. Its standard
error is robust to heteroscedasticity and to clusters, so that c over it is a self-normalised sum: for independent
errors of either sign it exceeds λ with probability 2·exp(-λ²/2) at most, whatever their sizes (Hoeffding's inequality,
given their magnitudes). The error of a rounding is a function of the value, hence values that round to the same one are
one cluster: a thousand weights near 1/7 err alike. So do float32 sums of nearly the same terms, as equal tokens have.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.consecutive import Consecutive
from grok_conformance.harness.measure.noise import Fence

CLUSTER_BITS = 12
NUM_CLUSTERS = 2**CLUSTER_BITS
"""K: few enough for the processor's cache. What all err in common widens the standard error too, so that a score of s
shows as s / √(1 + s² / K), which is 0.6 % less where s is 7."""

MIXER = np.uint32(2654435761)
"""An odd number near 2³² / φ: multiplying by it spreads the bits of a value over the upper ones (Knuth, §6.4)."""

LAST_BITS = np.uint32(6)
"""Of the 24 of float32: sums of nearly the same terms differ by as much; more values are left than clusters."""

OCTAVES = (-4, 12)
"""The lowest and highest power of two that bounds a bin of arguments; what lies beyond joins the outermost bins."""

GAIN, BY_OCTAVE, BIAS = "gain", "gain by octave", "bias"
"""The directions; an octave's statistic is called `gain near -0.5`."""

NUM_OCTAVES = 2 * (OCTAVES[1] - OCTAVES[0] + 1)

NUM_GROUPS = NUM_OCTAVES + 1
"""Groups of elements of one tap: the octaves of their arguments, and last what has no argument."""


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
    """What a direction sums over groups of elements: residual · direction by cluster, direction², the floor's terms.

    A group is a tap, or an octave of the arguments of one: number of the tap in its block · NUM_GROUPS + octave, where
    that of a whole tap is NUM_OCTAVES. groups int [n] ascending, terms float64 [n, clusters], information and floor
    float64 [n].
    """

    groups: Array
    terms: Array
    information: Array
    floor: Array

    def __add__(self, other: Sums) -> Sums:
        """Return the sums over the elements of both."""
        if np.array_equal(self.groups, other.groups):  # as those of two stretches mostly are
            terms, information = self.terms + other.terms, self.information + other.information
            return Sums(self.groups, terms, information, self.floor + other.floor)
        groups = np.union1d(self.groups, other.groups)
        terms, information, floor = np.zeros((groups.size, NUM_CLUSTERS)), np.zeros(groups.size), np.zeros(groups.size)
        for each in (self, other):
            rows = np.searchsorted(groups, each.groups)
            terms[rows] += each.terms
            information[rows] += each.information
            floor[rows] += each.floor
        return Sums(groups, terms, information, floor)


Directions = Mapping[str, Sums]
"""The sums of every direction, by name; none where nothing is known of what elements may err in common."""


def joined(one: Directions, other: Directions) -> Directions:
    """Return the sums over the elements of both, of which one may have none."""
    return {name: one[name] + other[name] for name in one} if one and other else one or other


def weight_of(fence: Fence, scored: Array) -> Array:
    """Return 1 / deviation where an element is scored, which whitens its error, and 0 elsewhere."""
    if scored.all():
        return 1 / fence.deviation
    return np.divide(1, fence.deviation, out=np.zeros_like(fence.deviation), where=scored)


def conclude(directions: Directions, num_taps: int, allowed: float) -> list[tuple[Systematic, ...]]:
    """Return for every tap of a block the statistic of every direction, and of every octave, along which it errs."""
    found: list[list[Systematic]] = [[] for _ in range(num_taps)]
    for name, sums in directions.items():
        taps, octaves = np.divmod(sums.groups, NUM_GROUPS)
        names = [name if each == NUM_OCTAVES else f"{GAIN} {octave(each)}" for each in octaves.tolist()]
        for tap, one in zip(taps.tolist(), _statistics(names, sums, allowed), strict=True):
            found[tap] += [one] if one.standard_error else []
    return [tuple(each) for each in found]


def _statistics(names: Iterable[str], sums: Sums, allowed: float) -> list[Systematic]:
    """Return one statistic of every group."""
    coefficients = sums.terms.sum(1) / sums.information
    errors = np.sqrt(np.einsum("ij,ij->i", sums.terms, sums.terms)) / sums.information
    floors = sums.floor / sums.information
    figures = (coefficients.tolist(), errors.tolist(), floors.tolist(), sums.information.tolist())
    return [Systematic(*each, allowed) for each in zip(names, *figures, strict=True)]


def directions_of(
    residual: Array,
    where: Array | slice,
    weight: Array,
    exact: Exact,
    fence: Fence,
    recorded: str,
    taps: Consecutive,
) -> Directions:
    """Return the sums of every direction over the elements that have a weight (`weight_of`); all arrays are flat.

    `residual` is the whitened error of some of them, at `where`; the others do not err, but say as much of what the
    whole tap errs in common. The value's own direction is also grouped by octaves of the argument, where there is one.
    """
    if fence.common is None:
        return {}
    gain = exact.value * weight  # 0 where no element is scored, as all that follows
    common = fence.common * weight if fence.common.any() else None
    floor = None if common is None else np.abs(gain) * common
    cluster = cluster_of(exact.value[where], recorded)
    squares, along = np.square(gain), residual * gain[where]
    found = {GAIN: _summed(taps, None, squares, floor, where, cluster, along)}
    if exact.argument is not None:
        found[BY_OCTAVE] = _summed(taps, octaves_of(exact.argument), squares, floor, where, cluster, along)
    return found | {BIAS: _summed(taps, None, weight > 0, common, where, cluster, residual)}


def _summed(
    taps: Consecutive,
    octaves: Array | None,
    squares: Array,
    floor: Array | None,
    where: Array | slice,
    cluster: Array,
    terms: Array,
) -> Sums:
    """Return the sums of a direction: direction² and the floor's terms of all elements, the terms of those at `where`.

    Elements without a direction are in no group, and their terms are 0. A direction that is 1 or none may be bool.
    """
    if octaves is None:
        group, groups = taps.number, np.arange(taps.starts.size) * NUM_GROUPS + NUM_OCTAVES
        counted = squares.dtype == bool
        information = taps.count(squares).astype(np.float64) if counted else taps.reduce(np.add, squares)
        floors = np.zeros(groups.size) if floor is None else taps.reduce(np.add, floor)
    else:
        group, groups = taps.number * NUM_GROUPS + octaves, np.arange(taps.starts.size * NUM_GROUPS)
        information = np.bincount(group, squares, groups.size)
        floors = np.zeros(groups.size) if floor is None else np.bincount(group, floor, groups.size)
    occurring = information != 0
    num_rows = int(np.count_nonzero(occurring))
    row = np.maximum(np.cumsum(occurring) - 1, 0)[group if isinstance(group, int) else group[where]]
    summed = np.bincount(row * NUM_CLUSTERS + cluster, terms, max(num_rows, 1) * NUM_CLUSTERS)
    summed = summed.reshape(-1, NUM_CLUSTERS)[:num_rows]
    return Sums(groups[occurring], summed, information[occurring], floors[occurring])


def cluster_of(value: Array, recorded: str) -> Array:
    """Return the cluster of every value, an integer below NUM_CLUSTERS: the same for values that err alike.

    Other values share clusters by chance, which costs a little power only.
    """
    return (erring_alike(value, recorded) * MIXER >> np.uint32(32 - CLUSTER_BITS)).astype(np.intp)


def erring_alike(value: Array, recorded: str) -> Array:
    """Return a number uint32 for every value that is the same for those that err alike: they round to the same one.

    Of float32 the LAST_BITS are left out: where tokens are equal, their values differ by roundings, and err alike.
    """
    with np.errstate(over="ignore"):
        rounded = value.astype(np.float32).astype(DTYPES[recorded], copy=False)
    bits = rounded.view(f"u{rounded.itemsize}").astype(np.uint32, copy=False)
    return bits >> LAST_BITS if recorded == "float32" else bits


def octaves_of(argument: Array) -> Array:
    """Return the bin of every argument, an integer below NUM_OCTAVES: one per sign and power of two.

    The bits of a float64 are its sign, 11 of the exponent (0 for 0, else 1023 above it) and 52 of the fraction.
    """
    lowest, highest = (1023 + exponent for exponent in OCTAVES)
    bits = argument.astype(np.float64, copy=False).view(np.int64)  # a position is a whole number
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
