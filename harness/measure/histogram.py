"""How the errors of one tap are distributed: a histogram in units of the fence, and the worst tokens beyond it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array

EDGES = (0.0, *(2.0**k for k in range(-5, 2)), 4.0, 16.0, 256.0)
"""Upper edges of the bins of error / fence, the last bin has none: exactly right, up to 1/32, …, up to 1, up to 2, …"""

MAX_TOKENS = 5
"""Worst tokens that a comparison keeps."""


@dataclass(frozen=True)
class Element:
    """One element of a tap: where it is, what the candidate gave, what is exact and expected, and its fence."""

    index: tuple[int, ...]
    observed: float
    exact: float
    allowed: float
    expected: float = math.nan


BINS = np.searchsorted(EDGES, 2.0 ** np.arange(-6, 10))
"""The bin of what is at most 2**k, for k of -6 to 9: the edges beyond the first are powers of two."""


def bins_of(ratio: Array) -> Array:
    """Return the bin of `EDGES` of some errors / fences, none of them negative; NaN counts as beyond all.

    The bits of a float64, less one, have as exponent the power of two that it lies above.
    """
    exponent = ((ratio.view(np.int64) - 1) >> 52) - 1022
    found: Array = BINS[np.clip(exponent, -6, 9) + 6]
    found[ratio == 0] = 0
    return found


def histogram(ratio: Array) -> tuple[int, ...]:
    """Return how many of some errors / fences fall into each bin of `EDGES`; NaN counts as beyond all."""
    return tuple(np.bincount(bins_of(ratio), minlength=len(EDGES) + 1).tolist())


def worst_tokens(
    ratio: Array, observed: Array, exact: Array, allowed: Array, axes: tuple[str, ...]
) -> tuple[Element, ...]:
    """Return the worst element of each token (cache slot, where a tap has no t) beyond its fence, worst token first.

    All arrays have the shape of the tap, whose axes are letters; the ratio is 0 where nothing is compared.
    """
    token = [i for i, axis in enumerate(axes) if axis in ("b", "t") or (axis == "s" and "t" not in axes)]
    rest = [i for i in range(len(axes)) if i not in token]
    by_token = np.transpose(ratio, token + rest).reshape(math.prod(ratio.shape[i] for i in token), -1)
    worst = by_token.max(-1)
    elements = []
    for i in np.argsort(-worst, kind="stable")[:MAX_TOKENS]:
        if not worst[i] > 1:
            break
        flat = int(i) * by_token.shape[1] + int(by_token[i].argmax())
        moved = np.unravel_index(flat, [ratio.shape[axis] for axis in token + rest])
        index = tuple(int(moved[(token + rest).index(axis)]) for axis in range(len(axes)))
        elements.append(Element(index, float(observed[index]), float(exact[index]), float(allowed[index])))
    return tuple(elements)
