"""One tap against its exact result in one pass: blocks that stay in the processor's cache, shared out among threads.

Whatever the size of the tap, the temporaries take constant memory; sums and extremes of the blocks are merged.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.histogram import EDGES, histogram
from grok_conformance.harness.measure.noise import BULK_DEVIATIONS, Fence, fence_of
from grok_conformance.harness.measure.systematic import Sums, add_directions, merge_directions, weight_of

BLOCK_SIZE = 2**17
"""Elements of a block: few enough for the cache, enough that threads seldom wait for one another between operations."""


@dataclass(frozen=True)
class Block:
    """A stretch of a tap, flattened: what was observed, its exact result and fence, what is compared; all [n]."""

    observed: Array
    exact: Exact
    fence: Fence
    mask: Array


@dataclass(frozen=True)
class Findings:
    """What is found in some elements; places are flat indices into the tap.

    `tail` is the largest error / fence, at `worst`; `squares` the sum of the `num_scored` squared errors over their
    deviations; `counts` a histogram of error / fence; `directions` the sums of the systematic statistics.
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
    directions: Mapping[str, Sums] | None = None

    def bulk(self, num_units: int | None = None) -> float:
        """Return the root mean square of errors over what honest rounding gives, less BULK_DEVIATIONS of its own.

        `num_units` is how many of the elements are independent, None for all: hidden noise is common to a token.
        """
        if not self.num_scored:
            return 0.0
        count = self.num_scored if num_units is None else max(1, min(num_units, self.num_scored))
        return math.sqrt(self.squares / self.num_scored) / (1 + BULK_DEVIATIONS / math.sqrt(2 * count))

    def __add__(self, other: Findings) -> Findings:
        """Return what is found in both, without directions; of equal extremes the first in the tap counts."""
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
        )


def find(num_elements: int, block: Callable[[slice], Block], recorded: str) -> Findings:
    """Return the findings in a tap of so many elements; `block` makes any stretch of it, in several threads at once."""
    stretches = [slice(start, min(start + BLOCK_SIZE, num_elements)) for start in range(0, num_elements, BLOCK_SIZE)]
    if len(stretches) <= 1:
        directions: dict[str, Sums] = {}
        found = findings_of(block(slice(0, num_elements)), 0, recorded, directions)
        return replace(found, directions=directions)
    num_threads = os.cpu_count() or 1
    parts: list[dict[str, Sums]] = [{} for _ in range(num_threads)]

    def every(first: int) -> Findings:
        found = (findings_of(block(s), s.start, recorded, parts[first]) for s in stretches[first::num_threads])
        return functools.reduce(Findings.__add__, found, Findings())

    with ThreadPoolExecutor(num_threads) as threads:
        found = functools.reduce(Findings.__add__, threads.map(every, range(num_threads)), Findings())
    return replace(found, directions=merge_directions(parts))


Fencing = Callable[[Exact, slice], Fence]
"""Returns the fence of a stretch of a tap, flattened, whose exact result is given."""


def fenced(recorded: str, factor: float) -> Fencing:
    """Return the fences that `fence_of` gives, each worked out with its block: a whole one costs as much as finding."""
    return lambda exact, _: fence_of(exact, recorded, factor)


def fenced_by(fence: Fence, shape: tuple[int, ...]) -> Fencing:
    """Return the stretches of a fence that is known, of a tap of this shape."""
    allowed, deviation = flat(fence.allowed, shape), flat(fence.deviation, shape)
    common = None if fence.common is None else flat(fence.common, shape)
    return lambda _, at: Fence(allowed[at], deviation[at], None if common is None else common[at], fence.factor)


def flat(x: Array | float, shape: tuple[int, ...]) -> Array:
    """Return an array of this shape, or one that is broadcast to it, flattened."""
    return np.broadcast_to(np.asarray(x), shape).reshape(-1)


def stretch_of(x: Array | float, at: Array | slice) -> Array | float:
    """Return some elements of a flat array; of a number, which stands for all, the number."""
    return x[at] if isinstance(x, np.ndarray) and x.ndim else x


def blocks_of(observed: Array, exact: Exact, fencing: Fencing, mask: Array) -> Callable[[slice], Block]:
    """Return a function that cuts whole arrays of one shape, or what is broadcast to it, into blocks."""
    shape = observed.shape
    value, seen, chosen = flat(exact.value, shape), flat(observed, shape), flat(mask, shape)
    bound, spread, jump, inherited = (
        flat(error, shape) if np.ndim(error) else error
        for error in (exact.bound, exact.spread, exact.jump, exact.inherited)
    )
    argument = None if exact.argument is None else flat(exact.argument, shape)

    def block(at: slice) -> Block:
        part = Exact(
            value[at],
            bound=stretch_of(bound, at),
            spread=stretch_of(spread, at),
            jump=stretch_of(jump, at),
            inherited=stretch_of(inherited, at),
            shared=exact.shared,
            argument=None if argument is None else argument[at],
        )
        return Block(seen[at], part, fencing(part, at), chosen[at])

    return block


def findings_of(block: Block, start: int, recorded: str, directions: dict[str, Sums]) -> Findings:
    """Return the findings in one block that starts at an index of the tap.

    What it adds to the systematic statistics is added to `directions`.
    """
    exact, fence, mask = block.exact, block.fence, block.mask
    num_elements = int(np.count_nonzero(mask))
    if not num_elements:
        return Findings()
    finite = np.isfinite(block.observed)
    if not finite.all() and (bad := mask & ~finite).any():  # the values are told apart: no other statistic is needed
        return Findings(num_elements, int(np.count_nonzero(bad)), first_bad=start + int(bad.argmax()))
    signed = block.observed - exact.value
    if num_elements < mask.size:
        signed = np.where(mask, signed, 0.0)
    # A masked weight is exactly 0 and would dilute the mean; what is smaller than any normal number may become 0.
    scored = mask & (np.abs(exact.value) >= SMALLEST_NORMAL["float32"]) & (fence.deviation > 0)
    weight = weight_of(fence, scored)
    erring = signed != 0
    # Where little errs only that is looked at: all else is exactly right.
    where = slice(None) if np.count_nonzero(erring) > mask.size // 2 else np.flatnonzero(erring)
    off = signed[where]
    error, residual = np.abs(off), off * weight[where]
    ratio = fence_ratio(error, fence.allowed[where])
    worst = int(ratio.argmax()) if ratio.size else 0
    add_directions(directions, residual, where, weight, exact, fence, recorded)
    exactly, *others = histogram(ratio)
    return Findings(
        num_elements=num_elements,
        tail=float(ratio[worst]) if ratio.size else 0.0,
        worst=start + (worst if isinstance(where, slice) or not ratio.size else int(where[worst])),
        squares=float(np.square(residual).sum()),
        num_scored=int(np.count_nonzero(scored)),
        excess=excess_units(error, exact, where, recorded),
        counts=(exactly + num_elements - ratio.size, *others),
    )


def fence_ratio(error: Array, allowed: Array) -> Array:
    """Return error / fence; where nothing is allowed any error is infinitely beyond, none is 0."""
    if allowed.all():
        return np.divide(error, allowed)
    return np.divide(error, allowed, out=np.where(error > 0, np.inf, 0.0), where=allowed > 0)


def excess_units(error: Array, exact: Exact, where: Array | slice, recorded: str) -> float:
    """Return the largest error beyond one rounding to the recorded dtype, in the operation's float32 units.

    The errors are those of some elements, at `where`; they are 0 where nothing is compared.
    """
    size = np.abs(exact.value[where])
    beyond = error - UNIT_ROUNDOFF[recorded] * size - stretch_of(exact.jump, where)
    far = np.flatnonzero(beyond > 0)
    if not far.size:
        return 0.0
    at = far if far.size < size.size // 4 else slice(None)  # picking some costs more than working out all
    bound, spread = (stretch_of(stretch_of(x, where), at) for x in (exact.bound, exact.spread))
    unit = UNIT_ROUNDOFF["float32"] * (size[at] + bound + spread)
    return float(np.divide(beyond[at], unit, out=np.zeros_like(unit), where=unit > 0).max(initial=0.0))
