"""Taps beside their exact results, cut into blocks of elements or put together into one.

The temporaries of judging stay in the processor's cache, whatever the size of a tap; many small taps take one pass.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import Fence, fence_of

BLOCK_SIZE = 2**17
"""Elements of a block: few enough for the cache, enough that threads seldom wait for one another between operations."""

BATCH_SIZE = 2**15
"""Elements of small taps that are held back to be worked out together: more save little and leave the cache."""

Fencing = Fence | float
"""A fence that is known, or λ, by which it is worked out with each block: a whole one costs as much as finding."""


@dataclass(frozen=True)
class Pair:
    """A tap as it was observed (float64) and what it should have been, compared where the mask is set.

    `key` is the call and the tap, `axes` its axis letters. The mask and what goes with the exact result are of the
    shape of the tap, or broadcast to it.
    """

    key: tuple[int, str]
    axes: tuple[str, ...]
    exact: Exact
    fencing: Fencing
    observed: Array
    mask: Array
    recorded: str

    @property
    def factor(self) -> float:
        """The λ of its fence."""
        return self.fencing.factor if isinstance(self.fencing, Fence) else self.fencing

    @property
    def has_common(self) -> bool:
        """Whether its fence tells what elements may err in common."""
        if isinstance(self.fencing, Fence):
            return self.fencing.common is not None
        return not np.ndim(self.exact.inherited)


@dataclass(frozen=True)
class Block:
    """A stretch of a tap, or several taps one after the other, flattened; all [n].

    What was observed, its exact result and fence, what is compared. `starts` int [taps] is where each tap begins, in
    ascending order; none is empty.
    """

    observed: Array
    exact: Exact
    fence: Fence
    mask: Array
    starts: tuple[int, ...] = (0,)


def flat(x: Array | float, shape: tuple[int, ...]) -> Array:
    """Return an array of this shape, or one that is broadcast to it, flattened."""
    x = np.asarray(x)
    return (x if x.shape == shape else np.broadcast_to(x, shape)).reshape(-1)


def changed(exact: Exact, change: Callable[[Array | float], Any]) -> Exact:
    """Return an exact result with everything changed that goes with its elements."""
    return replace(
        exact,
        value=change(exact.value),
        bound=change(exact.bound),
        spread=change(exact.spread),
        jump=change(exact.jump),
        inherited=change(exact.inherited),
        argument=None if exact.argument is None else change(exact.argument),
    )


def stretch_of(x: Array | float, at: Array | slice) -> Array | float:
    """Return some elements of a flat array; of a number, which stands for all, the number."""
    return x[at] if isinstance(x, np.ndarray) and x.ndim else x


def fence_stretch(fence: Fence, shape: tuple[int, ...], at: slice) -> Fence:
    """Return a stretch of the fence of a tap of this shape, flattened."""
    common = None if fence.common is None else flat(fence.common, shape)[at]
    return Fence(flat(fence.allowed, shape)[at], flat(fence.deviation, shape)[at], common, fence.factor)


def blocks_of(pair: Pair) -> Callable[[slice], Block]:
    """Return a function that cuts a tap into blocks."""
    fencing, shape = pair.fencing, pair.observed.shape
    exact = changed(pair.exact, lambda x: flat(x, shape) if np.ndim(x) else x)
    seen, chosen = flat(pair.observed, shape), flat(pair.mask, shape)

    def block(at: slice) -> Block:
        part = changed(exact, lambda x: stretch_of(x, at))
        if isinstance(fencing, Fence):
            return Block(seen[at], part, fence_stretch(fencing, shape, at), chosen[at])
        return Block(seen[at], part, fence_of(part, pair.recorded, fencing), chosen[at])

    return block


def kind_of(pair: Pair) -> Hashable:
    """Return what pairs must have alike so that they can be put into one block: which arrays there are, and λ."""
    exact, known = pair.exact, isinstance(pair.fencing, Fence)
    arrays = exact.argument is None, np.ndim(exact.inherited) > 0, pair.has_common
    return pair.recorded, pair.factor, known, exact.shared, arrays


def block_of(pairs: Sequence[Pair]) -> Block:
    """Return whole taps, none of them empty and all of one kind, as one block."""
    shapes = [pair.observed.shape for pair in pairs]
    exacts = [pair.exact for pair in pairs]
    starts = [0, *itertools.accumulate(map(math.prod, shapes))]
    stretches = [slice(*ends) for ends in itertools.pairwise(starts)]

    def row(values: Sequence[Array | float], dtype: type = float) -> Array:
        flattened: Array = np.empty(starts[-1], dtype)
        for x, shape, at in zip(values, shapes, stretches, strict=True):
            flattened[at].reshape(shape)[...] = x
        return flattened

    def errors(values: Sequence[Array | float]) -> Array | float:
        return row(values) if any(np.ndim(x) or x != values[0] for x in values) else values[0]

    argued = [exact.argument for exact in exacts if exact.argument is not None]
    exact = Exact(
        row([each.value for each in exacts]),
        bound=errors([each.bound for each in exacts]),
        spread=errors([each.spread for each in exacts]),
        jump=errors([each.jump for each in exacts]),
        inherited=errors([each.inherited for each in exacts]),
        shared=exacts[0].shared,
        argument=row(argued) if argued else None,
    )
    fences = [pair.fencing for pair in pairs if isinstance(pair.fencing, Fence)]
    if fences:
        common = [x for fence in fences if (x := fence.common) is not None]
        allowed, deviation = row([fence.allowed for fence in fences]), row([fence.deviation for fence in fences])
        fence = Fence(allowed, deviation, row(common) if common else None, fences[0].factor)
    else:
        fence = fence_of(exact, pairs[0].recorded, pairs[0].factor)
    observed, mask = row([pair.observed for pair in pairs]), row([pair.mask for pair in pairs], bool)
    return Block(observed, exact, fence, mask, tuple(starts[:-1]))
