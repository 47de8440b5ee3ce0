"""How much of a fault is in a residual: a coefficient, how well it is known, and by how many tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array


@dataclass(frozen=True)
class Fit:
    """How one fault fits a residual: coefficient, its standard error, and what the fault as it is leaves over.

    `num_tokens` is by how many tokens of equal weight the coefficient is told; few may agree by chance.
    """

    coefficient: float
    standard_error: float
    remainder: float
    num_tokens: float = math.inf


def fit(observed: Array, faulty: Array, tokens: Array | None = None) -> Fit:
    """Fit observed [n] = c · faulty [n] + noise by least squares, with White's standard error (HC0).

    Where values share the noise of their `tokens` int [n] the standard error is that of so many independent ones
    (Liang and Zeger, 1986), if it is larger. The remainder is the sum of squares of observed − faulty, the fault as it
    is: c = 1.
    """
    square = float(faulty @ faulty)
    coefficient = float(observed @ faulty) / square
    left = observed - coefficient * faulty
    standard_error = math.sqrt(float(np.square(faulty) @ np.square(left))) / square
    num_tokens = math.inf
    if tokens is not None:
        places = np.unique(tokens, return_inverse=True)[1]
        sums, weights = np.bincount(places, faulty * left), np.bincount(places, np.square(faulty))
        shared = math.sqrt(float(sums @ sums) * sums.size / max(sums.size - 1, 1)) / square
        standard_error, num_tokens = max(standard_error, shared), square**2 / float(weights @ weights)
    return Fit(coefficient, standard_error, float(np.square(observed - faulty).sum()), num_tokens)


def tokens_of(mask: Array, axes: tuple[str, ...]) -> Array:
    """Return of every value that a mask lets through, by its axes, which token it belongs to, or which cache slot."""
    along = axes.index("t" if "t" in axes else "s")
    places = np.nonzero(mask)
    found: Array = places[axes.index("b")] * mask.shape[along] + places[along]
    return found
