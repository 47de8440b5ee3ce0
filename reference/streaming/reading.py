"""Arrays of a checkpoint's files, read ahead of their use into a bounded amount of memory (SPEC §8)."""

from __future__ import annotations

import errno
import math
import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np

from grok_conformance.reference.checkpoint.arrays import aligned_empty, read_exactly
from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError, StoredArray
from grok_conformance.reference.streaming.blocks import MatrixInBlocks, read_blocks, room_bytes

READ_BYTES = 1 << 23
"""One read: long enough for any disk, short enough that few pages lie in the page cache."""


class Region(NamedTuple):
    """A part of a file that is an array stored by rows; `in_blocks` if it is to be read as a `MatrixInBlocks`."""

    path: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int
    in_blocks: bool = False

    @property
    def num_bytes(self) -> int:
        """The bytes that the elements take."""
        return math.prod(self.shape) * self.dtype.itemsize


def whole(path: Path, stored: StoredArray) -> Region:
    """Return the region of a whole array; raises CheckpointError for one that is not stored by rows."""
    if stored.order != "C":
        raise CheckpointError(f"{path}: stored by columns, which is not streamed; convert it to safetensors and back")
    return Region(path, stored.dtype, stored.shape, stored.offset)


def rows_of(region: Region, start: int, stop: int) -> Region:
    """Return the rows start..stop of a region's first axis."""
    row = region._replace(shape=region.shape[1:])
    return region._replace(shape=(stop - start, *row.shape), offset=region.offset + start * row.num_bytes)


def element(region: Region, index: int) -> Region:
    """Return one element of a region's first axis."""
    row = rows_of(region, index, index + 1)
    return row._replace(shape=row.shape[1:])


def slot_bytes(regions: Sequence[Region]) -> int:
    """Return the memory that regions take side by side, each aligned so that JAX on the CPU copies nothing."""
    return sum(room_bytes(region.num_bytes) for region in regions)


@dataclass(frozen=True, eq=False)
class Loan:
    """Arrays, each as `read_array` gives it, in memory that goes back to the reader at the end of a `with` block."""

    arrays: Sequence[Any]
    slot: Array
    free: SimpleQueue[Array | None]

    def __enter__(self) -> Sequence[Any]:
        """Return the arrays; they are overwritten after the block."""
        return self.arrays

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Give the memory back."""
        self.give_back()

    def give_back(self) -> None:
        """Let the reader overwrite the arrays."""
        self.free.put(self.slot)


class ReadAhead:
    """Reads regions in the order in which they are requested, in a thread of its own, into a fixed number of slots.

    It is as far ahead as the slots allow: `num_slots` requests are read and not yet given back. What is read leaves
    nothing in the page cache: a model that is larger than memory would find nothing there.
    """

    def __init__(self, num_slots: int, num_bytes: int) -> None:
        """Take memory for `num_slots` requests of up to `num_bytes` each, as `slot_bytes` counts them."""
        self.num_bytes = num_slots * num_bytes
        self._thread = ThreadPoolExecutor(1)
        self._free: SimpleQueue[Array | None] = SimpleQueue()
        for _ in range(num_slots):
            self._free.put(aligned_empty([num_bytes], np.dtype(np.uint8)))

    def request(self, regions: Sequence[Region]) -> Future[Loan]:
        """Return the arrays of the regions, as they will be read; raises CheckpointError when they are asked for."""
        return self._thread.submit(self._read, regions)

    def close(self) -> None:
        """Drop what is requested and not yet read; what is lent stays valid."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        self._free.put(None)  # wakes up a reader that waits for memory

    def _read(self, regions: Sequence[Region]) -> Loan:
        slot = self._free.get()
        if slot is None:
            raise CheckpointError("the stream was closed before all of it was read")
        arrays, start = [], 0
        try:
            for region in regions:
                room = room_bytes(region.num_bytes)
                arrays.append(read_array(region, slot[start : start + room]))
                start += room
        except BaseException:
            self._free.put(slot)  # or later requests would wait for it without end
            raise
        return Loan(arrays, slot, self._free)


def read_array(region: Region, memory: Array) -> Array | MatrixInBlocks:
    """Read a region into aligned memory uint8 [room_bytes(region.num_bytes)]; raises CheckpointError.

    It is read through the page cache where the file system allows nothing else.
    """
    if not region.in_blocks:
        read_region(region, memory[: region.num_bytes])
        return memory[: region.num_bytes].view(region.dtype).reshape(region.shape)
    k, m = region.shape
    try:
        start = read_blocks(region.path, region.offset, region.num_bytes, memory)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise failed(region, error) from error
        start = 0
        read_region(region, memory[: region.num_bytes])
    return MatrixInBlocks(memory.view(np.int8), np.int32(start), (k, m))


def read_region(region: Region, memory: Array) -> None:
    """Read a region from the disk into memory uint8 [bytes]; raises CheckpointError if the file ends before."""
    try:
        with region.path.open("rb", buffering=0) as file:
            handle = file.fileno()
            for start in range(0, region.num_bytes, READ_BYTES):
                part = memory[start : start + READ_BYTES]
                read_exactly(handle, part.data, region.offset + start)
                before = max(0, region.offset + start - READ_BYTES)  # pages that lie across a border fall with the next
                os.posix_fadvise(handle, before, region.offset + start + part.nbytes - before, os.POSIX_FADV_DONTNEED)
    except OSError as error:
        raise failed(region, error) from error


def failed(region: Region, error: OSError) -> CheckpointError:
    """Return what is said of a region that could not be read."""
    return CheckpointError(f"{region.path}: {error.strerror}; the file has changed or its disk failed")
