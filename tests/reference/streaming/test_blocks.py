"""Blocks of a file are read past the page cache, and rows are found in them wherever they begin."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grok_conformance.reference.checkpoint.arrays import aligned_empty
from grok_conformance.reference.checkpoint.pickles import CheckpointError
from grok_conformance.reference.streaming.blocks import MatrixInBlocks, read_blocks, room_bytes, take_rows
from grok_conformance.reference.streaming.reading import Region, read_array

MATRIX = np.random.default_rng(0).integers(-128, 128, (60, 301), dtype=np.int8)


def region_in(folder: Path, offset: int) -> Region:
    """Return the region of a matrix that lies in a new file from `offset` on, up to its end."""
    path = folder / "tensor"
    path.write_bytes(bytes(offset) + MATRIX.tobytes())
    return Region(path, np.dtype(np.int8), MATRIX.shape, offset, in_blocks=True)


@pytest.mark.parametrize("offset", [0, 1, 201, 4095, 4096, 10_000])
def test_bytes_are_found_in_their_blocks(tmp_path: Path, offset: int) -> None:
    region = region_in(tmp_path, offset)
    memory = aligned_empty([room_bytes(region.num_bytes)], np.dtype(np.uint8))
    matrix = read_array(region, memory)
    assert isinstance(matrix, MatrixInBlocks)
    assert (matrix.memory.dtype, matrix.shape) == (np.int8, MATRIX.shape)
    np.testing.assert_array_equal(take_rows(matrix, 0, 60), MATRIX)
    np.testing.assert_array_equal(take_rows(matrix, 57, 3), MATRIX[57:])


def test_a_file_system_that_has_only_its_page_cache_is_read_through_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> int:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "open", refuse)
    region = region_in(tmp_path, 201)
    matrix = read_array(region, aligned_empty([room_bytes(region.num_bytes)], np.dtype(np.uint8)))
    assert isinstance(matrix, MatrixInBlocks)
    np.testing.assert_array_equal(take_rows(matrix, 0, 60), MATRIX)


def test_a_file_that_ends_too_soon_or_is_gone_is_named(tmp_path: Path) -> None:
    region = region_in(tmp_path, 201)
    longer = region._replace(shape=(61, 301))
    memory = aligned_empty([room_bytes(longer.num_bytes)], np.dtype(np.uint8))
    with pytest.raises(CheckpointError, match="tensor: truncated"):
        read_array(longer, memory)
    region.path.unlink()
    with pytest.raises(CheckpointError, match="tensor: No such file"):
        read_array(region, memory)


def test_no_read_goes_beyond_the_room(tmp_path: Path) -> None:
    region = region_in(tmp_path, 4095)
    room = room_bytes(region.num_bytes)
    memory = aligned_empty([room + 4096], np.dtype(np.uint8))
    memory[room:] = 77
    assert read_blocks(region.path, region.offset, region.num_bytes, memory[:room]) == 4095
    assert (memory[room:] == 77).all()
