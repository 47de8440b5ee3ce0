"""Taps that lie one after the other in one flat array: what is asked of many small ones is worked out at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array


@dataclass(frozen=True)
class Consecutive:
    """Which of `size` elements belong to which tap.

    starts int [taps], where each begins, ascending; number int [size], the tap of every element, or 0 where there is
    but one tap.
    """

    starts: Array
    number: Array | int
    size: int

    @staticmethod
    def of(starts: Array, size: int) -> Consecutive:
        """Return the taps that begin at these places, none of them empty."""
        number = 0 if starts.size == 1 else np.repeat(np.arange(starts.size), np.diff(starts, append=size))
        return Consecutive(starts, number, size)

    def at(self, where: Array) -> Consecutive:
        """Return the taps of some elements, given by ascending places; a tap may have none of them."""
        number = self.number[where] if isinstance(self.number, np.ndarray) else self.number
        return Consecutive(np.searchsorted(where, self.starts), number, where.size)

    def each(self, by_tap: Array) -> Array:
        """Return for every element what is given of its tap; one number where there is but one tap."""
        found: Array = by_tap[self.number]
        return found

    def reduce(self, ufunc: np.ufunc, x: Array) -> Array:
        """Return the reduction of every tap [taps], 0 for one without elements; to the bit as of a tap alone."""
        some = self.starts < np.append(self.starts[1:], self.size)
        reduced = np.zeros(self.starts.size)
        if some.any():
            reduced[some] = ufunc.reduceat(x, self.starts[some])
        return reduced

    def count(self, chosen: Array) -> Array:
        """Return how many elements of every tap are chosen, int [taps]."""
        if self.starts.size == 1:
            return np.array([np.count_nonzero(chosen)])
        sums = np.concatenate([[0], np.cumsum(chosen)])
        found: Array = sums[np.append(self.starts[1:], self.size)] - sums[self.starts]
        return found

    def first(self, chosen: Array) -> Array:
        """Return the place of the first chosen element of every tap, -1 where none is, int [taps]."""
        places = np.flatnonzero(chosen)
        if not places.size:
            return np.full(self.starts.size, -1)
        next_one = np.searchsorted(places, self.starts)
        found = places[np.minimum(next_one, places.size - 1)]
        within = (next_one < places.size) & (found < np.append(self.starts[1:], self.size))
        return np.where(within, found, -1)
