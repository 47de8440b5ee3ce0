"""Float weights of a checkpoint as 8-bit ones, quantised while they are read, in blocks of rows (SPEC §3, §8)."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

import numpy as np

from grok_conformance.reference.checkpoint.arrays import aligned_empty, read_exactly, read_regions, whole
from grok_conformance.reference.checkpoint.layout import LeafFile
from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError
from grok_conformance.reference.quantization import QuantizedWeight8bit, scales_of, to_int8

ReadRows = Callable[[int, int], Array]
"""Returns rows from a start to a stop of a weight [..., k, n], counted over all its leading axes."""

QUANTIZED_BYTES = 1 << 22
"""One read: no thread has more of the float weight in memory than this, and a few copies of it in float64."""


def check_groups(leaf: LeafFile, expected: Any) -> None:
    """Raise CheckpointError if the rows of a weight do not divide into the groups of scales that are expected."""
    num_rows, num_groups = expected.shape[-2], expected.scales.shape[-2]
    if num_rows % num_groups:
        raise CheckpointError(
            f"{leaf.path}: {leaf.module}/{leaf.name}: {num_rows} rows do not divide into {num_groups} groups of scales:"
            " quantise in another number of groups"
        )


def read_quantized(leaf: LeafFile, expected: Any, threads: Executor) -> QuantizedWeight8bit:
    """Return the float weight [..., k, n] of a file, quantised in the groups and dtypes of `expected` (SPEC §3).

    NumPy arrays, equal bit for bit to `quantize` of the whole weight. The file is read twice, first for the largest
    value of every group and column. Raises CheckpointError for a value that is not finite.
    """
    stored = leaf.stored.weight
    num_columns = stored.shape[-1]
    num_groups = math.prod(expected.scales.shape[:-1])  # those of all experts
    group_rows = math.prod(stored.shape[:-1]) // num_groups
    weight = aligned_empty((num_groups, group_rows, num_columns), np.dtype(np.int8))
    scales = aligned_empty((num_groups, num_columns), np.dtype(expected.scales.dtype))
    block_rows = max(1, QUANTIZED_BYTES // (num_columns * stored.dtype.itemsize))
    blocks = [(start, min(start + block_rows, group_rows)) for start in range(0, group_rows, block_rows)]

    def quantize_group(read_rows: ReadRows, group: int) -> None:
        first = group * group_rows
        largest = np.zeros(num_columns)
        for start, stop in blocks:
            largest = np.maximum(largest, np.abs(read_rows(first + start, first + stop)).max(axis=0))
        if not np.isfinite(largest).all():
            raise CheckpointError(
                f"{leaf.path}: {leaf.module}/{leaf.name}: a value in column {np.argmin(np.isfinite(largest))} of group"
                f" {group} is not finite: only finite weights can be quantised"
            )
        scales[group] = scales_of(largest, scales.dtype)
        for start, stop in blocks:
            weight[group, start:stop] = to_int8(read_rows(first + start, first + stop), scales[group])

    _for_all(leaf, threads, num_groups, quantize_group)
    return QuantizedWeight8bit(weight.reshape(stored.shape), scales.reshape(expected.scales.shape))


def _for_all(leaf: LeafFile, threads: Executor, num_groups: int, work: Callable[[ReadRows, int], None]) -> None:
    """Do the work for all groups of a file's weight, in threads."""
    path, stored = leaf.path, leaf.stored.weight
    num_columns = stored.shape[-1]
    if stored.order == "F":  # its rows do not lie together; the writers of this project write none
        (array,) = read_regions(path, stored, [whole(stored.shape)], threads)
        rows = array.reshape(-1, num_columns)
        list(threads.map(lambda group: work(lambda start, stop: rows[start:stop], group), range(num_groups)))
        return
    row_bytes = num_columns * stored.dtype.itemsize
    try:
        with path.open("rb", buffering=0) as file:

            def read_rows(start: int, stop: int) -> Array:
                block = np.empty((stop - start, num_columns), stored.dtype)
                read_exactly(file.fileno(), block.reshape(-1).view(np.uint8).data, stored.offset + start * row_bytes)
                return block

            list(threads.map(lambda group: work(read_rows, group), range(num_groups)))
    except OSError as error:
        raise CheckpointError(f"{path}: {error.strerror}; the file has changed or its disk has failed") from error
