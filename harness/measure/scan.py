"""One tap against its exact result in one pass: blocks that stay in the processor's cache, shared out among threads.

Whatever the size of the tap, the temporaries take constant memory; sums and extremes of the blocks are merged.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.blocks import BLOCK_SIZE, Block, Pair, blocks_of, stretch_of
from grok_conformance.harness.measure.consecutive import Consecutive
from grok_conformance.harness.measure.histogram import EDGES, bins_of
from grok_conformance.harness.measure.noise import BULK_DEVIATIONS
from grok_conformance.harness.measure.systematic import Directions, directions_of, joined, weight_of


@dataclass(frozen=True)
class Findings:
    """What is found in some elements; places are flat indices into the tap.

    `tail` is the largest error / fence, at `worst`; `squares` the sum of the `num_scored` squared errors over their
    deviations; `counts` a histogram of error / fence. `allowed` is the fence at `worst`.
    """

    num_elements: int = 0
    num_bad: int = 0
    first_bad: int = 0
    tail: float = -1.0
    worst: int = 0
    squares: float = 0.0
    num_scored: int = 0
    excess: float = 0.0
    counts: tuple[int, ...] = (0,) * (len(EDGES) + 1)
    allowed: float = math.nan

    def bulk(self, num_units: int | None = None) -> float:
        """Return the root mean square of errors over what honest rounding gives, less BULK_DEVIATIONS of its own.

        `num_units` is how many of the elements are independent, None for all: hidden noise is common to a token.
        """
        if not self.num_scored:
            return 0.0
        count = self.num_scored if num_units is None else max(1, min(num_units, self.num_scored))
        return math.sqrt(self.squares / self.num_scored) / (1 + BULK_DEVIATIONS / math.sqrt(2 * count))

    def __add__(self, other: Findings) -> Findings:
        """Return what is found in both; of equal extremes the first in the tap counts."""
        bad = min((self, other), key=lambda found: (not found.num_bad, found.first_bad))
        worse = max((self, other), key=lambda found: (found.tail, -found.worst))
        return Findings(
            num_elements=self.num_elements + other.num_elements,
            num_bad=self.num_bad + other.num_bad,
            first_bad=bad.first_bad,
            tail=worse.tail,
            worst=worse.worst,
            squares=self.squares + other.squares,
            num_scored=self.num_scored + other.num_scored,
            excess=max(self.excess, other.excess),
            counts=tuple(a + b for a, b in zip(self.counts, other.counts, strict=True)),
            allowed=worse.allowed,
        )

    def moved(self, start: int) -> Findings:
        """Return the findings of a stretch that begins at a place of its tap."""
        return replace(self, first_bad=self.first_bad + start, worst=self.worst + start)


def find(num_elements: int, block: Callable[[slice], Block], recorded: str) -> tuple[Findings, Directions]:
    """Return what is found in a tap of so many elements; `block` makes any stretch of it, in several threads."""
    starts = range(0, num_elements, BLOCK_SIZE)
    num_threads = min(os.cpu_count() or 1, len(starts))

    def some(first: int) -> tuple[Findings, Directions]:
        found: Findings = Findings()
        directions: Directions = {}
        for start in starts[first::num_threads]:
            (one,), sums = find_each(block(slice(start, min(start + BLOCK_SIZE, num_elements))), recorded)
            found += one.moved(start)
            directions = joined(directions, sums)
        return found, directions

    if num_threads <= 1:
        return some(0) if starts else (Findings(), {})
    with ThreadPoolExecutor(num_threads) as threads:
        parts = list(threads.map(some, range(num_threads)))
    return functools.reduce(Findings.__add__, (one for one, _ in parts)), functools.reduce(
        joined, (d for _, d in parts)
    )


def find_in(pair: Pair) -> tuple[list[Findings], Directions]:
    """Return what is found in a tap of any size, as `find_each` does of several."""
    found, directions = find(pair.observed.size, blocks_of(pair), pair.recorded)
    return [found], directions


def find_each(block: Block, recorded: str) -> tuple[list[Findings], Directions]:
    """Return what is found in each tap of a block, at places in that tap, and the sums of the systematic statistics."""
    exact, fence, mask = block.exact, block.fence, block.mask
    taps = Consecutive.of(np.array(block.starts), mask.size)
    num_elements = taps.count(mask)
    num_bad = first_bad = np.zeros_like(num_elements)
    finite = np.isfinite(block.observed)
    if not finite.all() and (bad := mask & ~finite).any():  # no other statistic of such a tap is needed
        num_bad, first_bad = taps.count(bad), np.maximum(taps.first(bad) - taps.starts, 0)
        mask = mask & taps.each(num_bad == 0)
    signed = block.observed - exact.value
    if num_bad.any() or num_elements.sum() < mask.size:
        signed = np.where(mask, signed, 0.0)
    # A masked weight is exactly 0 and would dilute the mean; what is smaller than any normal number may become 0.
    scored = mask & (np.abs(exact.value) >= SMALLEST_NORMAL["float32"]) & (fence.deviation > 0)
    weight = weight_of(fence, scored)
    erring = signed != 0
    # Where little errs only that is looked at: all else is exactly right.
    where = slice(None) if np.count_nonzero(erring) > mask.size // 2 else np.flatnonzero(erring)
    some = taps if isinstance(where, slice) else taps.at(where)
    off = signed[where]
    error, residual = np.abs(off), off * weight[where]
    # Of whole taps all are summed, so that the sum is to the bit that of a tap alone; of a large one what errs will do.
    is_stretch = taps.starts.size == 1 and mask.size == BLOCK_SIZE
    squares = (
        some.reduce(np.add, np.square(residual)) if is_stretch else taps.reduce(np.add, np.square(signed * weight))
    )
    ratio = fence_ratio(error, fence.allowed[where])
    tail = some.reduce(np.maximum, ratio)
    worst = some.first(~(ratio < some.each(tail)))  # NaN is the worst of all
    place = np.where(worst < 0, taps.starts, worst if isinstance(where, slice) or not where.size else where[worst])
    figures = zip(
        num_elements.tolist(),
        num_bad.tolist(),
        first_bad.tolist(),
        tail.tolist(),
        (place - taps.starts).tolist(),
        squares.tolist(),
        taps.count(scored).tolist(),
        excess_units(error, exact, where, recorded, some).tolist(),
        map(tuple, histograms(ratio, some, num_elements).tolist()),
        fence.allowed[place].tolist(),
        strict=True,
    )
    found = [Findings(*(each[:3] if each[1] else each)) if each[0] else Findings() for each in figures]
    return found, directions_of(residual, where, weight, exact, fence, recorded, taps)


def histograms(ratio: Array, some: Consecutive, num_elements: Array) -> Array:
    """Return how many elements of every tap fall into each bin [taps, bins]; those without a ratio do not err."""
    num_taps, num_bins = num_elements.size, len(EDGES) + 1
    counts = np.bincount(some.number * num_bins + bins_of(ratio), minlength=num_taps * num_bins)
    counts = counts.reshape(num_taps, num_bins)
    counts[:, 0] += num_elements - counts.sum(1)
    return counts


def fence_ratio(error: Array, allowed: Array) -> Array:
    """Return error / fence; where nothing is allowed any error is infinitely beyond, none is 0."""
    if allowed.all():
        return np.divide(error, allowed)
    return np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)


def excess_units(error: Array, exact: Exact, where: Array | slice, recorded: str, some: Consecutive) -> Array:
    """Return of every tap the largest error beyond one rounding to its dtype, in the operation's float32 units [taps].

    The errors are those of some elements, at `where`; they are 0 where nothing is compared.
    """
    size = np.abs(exact.value[where])
    beyond = error - UNIT_ROUNDOFF[recorded] * size - stretch_of(exact.jump, where)
    far = np.flatnonzero(beyond > 0)
    bound, spread = (stretch_of(stretch_of(x, where), far) for x in (exact.bound, exact.spread))
    unit = UNIT_ROUNDOFF["float32"] * (size[far] + bound + spread)
    return some.at(far).reduce(np.maximum, np.divide(beyond[far], unit, out=np.zeros_like(unit), where=unit > 0))
