"""Arrays of a checkpoint's files, whole or by regions, in parallel and without a second copy (SPEC §8)."""

from __future__ import annotations

import errno
import itertools
import math
import os
from collections.abc import Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError, StoredArray

Region = tuple[tuple[int, int], ...]
"""The part of an array that a device holds: start and stop along each axis."""

ALIGNMENT_BYTES = 4096
"""JAX on the CPU takes over a host array of this alignment as it is.

A disk writes into it past the page cache, from a multiple of this in the file on.
"""

READ_BYTES = 1 << 25
"""One read into the destination; the threads share an array in such pieces."""

BLOCK_BYTES = 1 << 20
"""One read that is scattered over the shards of a row; it stays in the processor's cache."""

NUM_THREADS = min(8, os.cpu_count() or 1)


def read_array(path: Path, stored: StoredArray) -> Array:
    """Return a whole array of a file as a NumPy array, in the order in which it is stored.

    Raises CheckpointError if the file cannot be read to the end of the array.
    """
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return read_regions(path, stored, [whole(stored.shape)], threads)[0]


def aligned_empty(shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
    """Return an uninitialised array that JAX on the CPU takes over without copying it."""
    num_bytes = math.prod(shape) * dtype.itemsize
    buffer = np.empty(num_bytes + ALIGNMENT_BYTES, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT_BYTES
    return buffer[start : start + num_bytes].view(dtype).reshape(shape)


def whole(shape: Sequence[int]) -> Region:
    """Return the region that is all of an array."""
    return tuple((0, length) for length in shape)


def read_regions(path: Path, stored: StoredArray, regions: Sequence[Region], threads: Executor) -> list[Array]:
    """Return regions of an array, each in memory of its own, reading the file once."""
    if stored.order == "F":  # the file holds the transpose, row by row
        transposed = replace(stored, shape=stored.shape[::-1], order="C")
        return [array.T for array in read_regions(path, transposed, [region[::-1] for region in regions], threads)]
    arrays = [aligned_empty([stop - start for start, stop in region], stored.dtype) for region in regions]
    try:
        with path.open("rb", buffering=0) as file:
            if list(regions) == [whole(stored.shape)]:
                _read_whole(file.fileno(), stored, arrays[0], threads)
            else:
                _scatter(file.fileno(), stored, regions, arrays, threads)
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the file has changed or its disk has failed") from error
    return arrays


def _read_whole(file: int, stored: StoredArray, array: Array, threads: Executor) -> None:
    data = array.reshape(-1).view(np.uint8).data

    def read(start: int) -> None:
        read_exactly(file, data[start : start + READ_BYTES], stored.offset + start)

    list(threads.map(read, range(0, array.nbytes, READ_BYTES)))


def _scatter(
    file: int, stored: StoredArray, regions: Sequence[Region], arrays: Sequence[Array], threads: Executor
) -> None:
    """Read the file in blocks of whole rows, and copy from each block, while it is in the cache, each region's part."""
    padding = (1,) * (3 - len(stored.shape))
    num_outer, num_rows, num_columns = (*padding, *stored.shape)
    row_bytes = num_columns * stored.dtype.itemsize
    block_rows = max(1, BLOCK_BYTES // row_bytes)
    parts = [
        ((*whole(padding), *region), array.reshape(padding + array.shape))
        for region, array in zip(regions, arrays, strict=True)
    ]

    def scatter(position: tuple[int, int]) -> None:
        outer, first = position
        end = min(first + block_rows, num_rows)
        block = np.empty((end - first, num_columns), stored.dtype)
        offset = stored.offset + (outer * num_rows + first) * row_bytes
        read_exactly(file, block.reshape(-1).view(np.uint8).data, offset)
        for ((outer_start, outer_stop), (start, stop), (left, right)), array in parts:
            low, high = max(first, start), min(end, stop)
            if outer_start <= outer < outer_stop and low < high:
                array[outer - outer_start, low - start : high - start] = block[low - first : high - first, left:right]

    list(threads.map(scatter, itertools.product(range(num_outer), range(0, num_rows, block_rows))))


def read_exactly(file: int, destination: memoryview, offset: int) -> None:
    """Fill the destination with the bytes of an open file from `offset` on; raises OSError if there are too few."""
    done = 0
    while done < destination.nbytes:
        num_read = os.preadv(file, [destination[done:]], offset + done)
        if num_read == 0:
            raise OSError(errno.ENODATA, "truncated while it was read")
        done += num_read
