"""A seeded random projection: k numbers of a token from which distances between tokens can be estimated.

With S = ±1/√k at random, E‖S(x − y)‖² = ‖x − y‖², and the estimate's relative standard error is at most √(2/k)
(Achlioptas 2003, Database-friendly random projections). `golden/README.md` states the generator for other languages.
"""

from __future__ import annotations

import functools
import math

import numpy as np

from grok_conformance.harness.contract import Array

SKETCH_SIZE = 64
"""k: one word of the generator holds the signs of one element, and the standard error is √(2/64) = 18 %."""

STANDARD_ERROR = math.sqrt(2 / SKETCH_SIZE)

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
MULTIPLIERS = ((np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)), (np.uint64(27), np.uint64(0x94D049BB133111EB)))
FINAL_SHIFT = np.uint64(31)

BLOCK_ELEMENTS = 1 << 14
"""Elements of a token that are projected at a time."""


def splitmix64(seed: int, start: int, stop: int) -> Array:
    """Return the outputs number start..stop - 1 of SplitMix64 begun at `seed`, uint64 (Steele, Lea and Flood 2014)."""
    with np.errstate(over="ignore"):
        word = np.uint64(seed) + np.arange(start + 1, stop + 1, dtype=np.uint64) * GOLDEN_GAMMA
        for shift, multiplier in MULTIPLIERS:
            word = (word ^ (word >> shift)) * multiplier
        word ^= word >> FINAL_SHIFT
    return word


@functools.lru_cache(maxsize=64)
def signs(seed: int, start: int, stop: int) -> Array:
    """Return the signs of elements start..stop - 1, int8 [n, k]: −1 where bit j of the element's word is set."""
    words = splitmix64(seed, start, stop).astype("<u8")
    bits = np.unpackbits(words.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    drawn: Array = 1 - 2 * bits.astype(np.int8)
    return drawn


def project(x: Array, seed: int) -> Array:
    """Return the sketch float64 [n, k] of tokens x [n, m]; what is not finite counts as 0."""
    sketch = np.zeros((len(x), SKETCH_SIZE))
    for start in range(0, x.shape[1], BLOCK_ELEMENTS):
        block = np.nan_to_num(x[:, start : start + BLOCK_ELEMENTS].astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
        sketch += block @ signs(seed, start, start + block.shape[1]).astype(np.float64)
    return sketch / math.sqrt(SKETCH_SIZE)
