"""The pieces in which an expert's matrices are read and multiplied: some rows at a time (SPEC §8)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from grok_conformance.reference.checkpoint.layout import LeafFile
from grok_conformance.reference.streaming.reading import Region, element, rows_of, whole

PIECE_BYTES = 1 << 26
"""Of a matrix, at most: little is left to compute after the last one is read, and all cores share an expert."""


class Piece(NamedTuple):
    """Rows start..stop of an expert's matrix [k, m]: the region of the weight, and that of its scales if it has any."""

    start: int
    stop: int
    regions: Sequence[Region]


def pieces_of(leaf: LeafFile, e: int) -> list[Piece]:
    """Return the pieces of expert e's matrix, equally high; of several, none straddles groups of scales."""
    weight, *scales = (element(whole(leaf.path, array), e) for array in leaf.stored.arrays)
    weight = weight._replace(in_blocks=weight.dtype == np.int8)
    num_rows = weight.shape[0]
    if weight.num_bytes <= PIECE_BYTES:
        return [Piece(0, num_rows, [weight, *scales])]
    group = num_rows // (scales[0].shape[0] if scales else 1)
    height = largest_divisor(group, PIECE_BYTES * num_rows // weight.num_bytes)
    return [
        Piece(
            start,
            start + height,
            [rows_of(weight, start, start + height), *(rows_of(s, start // group, start // group + 1) for s in scales)],
        )
        for start in range(0, num_rows, height)
    ]


def largest_divisor(number: int, limit: int) -> int:
    """Return the largest divisor of a number up to a limit."""
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)
