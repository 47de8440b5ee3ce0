from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.reference.checkpoint.arrays import (
    ALIGNMENT_BYTES,
    aligned_empty,
    read_array,
    read_exactly,
    read_regions,
    whole,
)
from grok_conformance.reference.checkpoint.pickles import CheckpointError, StoredArray

SHAPE = (3, 5, 7)
VALUES = np.arange(np.prod(SHAPE), dtype=np.float32).reshape(SHAPE)
OFFSET = 11


def stored(path: Path, order: str = "C") -> StoredArray:
    path.write_bytes(bytes(OFFSET) + VALUES.tobytes(order=order))  # type: ignore[arg-type] # C or F
    return StoredArray(VALUES.dtype, SHAPE, order, OFFSET)  # type: ignore[arg-type] # likewise


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_whole_array_is_read_in_the_order_in_which_it_is_stored(tmp_path: Path, order: str) -> None:
    path = tmp_path / "tensor"
    np.testing.assert_array_equal(read_array(path, stored(path, order)), VALUES)


@pytest.mark.parametrize("order", ["C", "F"])
def test_regions_are_the_parts_that_they_name(tmp_path: Path, order: str) -> None:
    path = tmp_path / "tensor"
    regions = [((0, 2), (1, 4), (0, 7)), ((2, 3), (0, 5), (3, 7))]
    with ThreadPoolExecutor(2) as threads:
        first, second = read_regions(path, stored(path, order), regions, threads)
    np.testing.assert_array_equal(first, VALUES[0:2, 1:4])
    np.testing.assert_array_equal(second, VALUES[2:3, :, 3:7])


def test_memory_is_aligned_as_jax_takes_it_over() -> None:
    array = aligned_empty((3, 5), np.dtype(np.int8))
    assert array.ctypes.data % ALIGNMENT_BYTES == 0
    assert array.shape == (3, 5)


def test_the_whole_of_an_array_spans_every_axis() -> None:
    assert whole((2, 3)) == ((0, 2), (0, 3))


def test_a_file_that_ends_too_early_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tensor"
    header = stored(path)
    os.truncate(path, OFFSET + VALUES.nbytes - 1)
    with pytest.raises(CheckpointError, match=r"tensor: truncated while it was read; the file has changed"):
        read_array(path, header)


def test_so_many_bytes_are_read_from_their_place(tmp_path: Path) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(b"0123456789")
    destination = bytearray(4)
    with path.open("rb") as file:
        read_exactly(file.fileno(), memoryview(destination), 3)
    assert bytes(destination) == b"3456"
