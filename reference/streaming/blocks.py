"""Matrices of bytes within the blocks of a file that hold them, read past the page cache (SPEC §8).

A disk writes whole blocks straight into memory, and the processor copies nothing. But an array in a file begins
anywhere in a block, where JAX would copy it to a place of its own: so what is handed on is the memory of the blocks.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax

from grok_conformance.reference.checkpoint.arrays import ALIGNMENT_BYTES
from grok_conformance.reference.checkpoint.pickles import Array

PAST_CACHE = getattr(os, "O_DIRECT", 0)
"""Of Linux; elsewhere the page cache is read through."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class MatrixInBlocks:
    """A matrix int8 [k, m], stored by rows in `memory` int8 [bytes] from `start` on."""

    memory: Any
    start: Any
    shape: tuple[int, int] = field(metadata={"static": True})


def take_rows(matrix: MatrixInBlocks, row: Any, num_rows: int) -> jax.Array:
    """Return some rows of a matrix, int8 [num_rows, m]; a compiled program reads them where they are."""
    m = matrix.shape[1]
    rows = jax.lax.dynamic_slice_in_dim(matrix.memory, matrix.start + row * m, num_rows * m)
    return rows.reshape(num_rows, m)


def room_bytes(num_bytes: int) -> int:
    """Return the memory that suffices for the blocks of so many bytes, wherever they begin."""
    return -(-num_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES + ALIGNMENT_BYTES


def read_blocks(path: Path, offset: int, num_bytes: int, memory: Array) -> int:
    """Read the blocks of a file that hold `num_bytes` from `offset` on; return where in the memory these begin.

    `memory` uint8 [room_bytes(num_bytes)] begins at a multiple of ALIGNMENT_BYTES. Raises OSError if the file ends too
    soon, and with EINVAL if its file system reads through the page cache alone.
    """
    start = offset % ALIGNMENT_BYTES
    handle = os.open(path, os.O_RDONLY | PAST_CACHE)
    try:
        done = 0
        while done < start + num_bytes:
            num_read = os.preadv(handle, [memory[done:].data], offset - start + done)
            done += num_read
            if num_read % ALIGNMENT_BYTES or num_read == 0:  # the end of the file
                break
    finally:
        os.close(handle)
    if done < start + num_bytes:
        raise OSError(errno.ENODATA, "truncated while it was read")
    return start
