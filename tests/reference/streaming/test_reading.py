"""Regions of files are read ahead, in order, into memory that is lent and given back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from grok_conformance.reference.checkpoint.pickles import CheckpointError
from grok_conformance.reference.streaming.reading import ReadAhead, Region, element, read_region, rows_of, slot_bytes


@pytest.fixture
def region(tmp_path: Path) -> Region:
    path = tmp_path / "tensor"
    path.write_bytes(b"head" + np.arange(24, dtype=np.int16).tobytes())
    return Region(path, np.dtype(np.int16), (4, 3, 2), 4)


def test_rows_and_elements_are_parts_of_a_region(region: Region) -> None:
    assert region.num_bytes == 48
    rows = rows_of(region, 1, 3)
    assert (rows.shape, rows.offset) == ((2, 3, 2), 4 + 12)
    assert (element(region, 3).shape, element(region, 3).offset) == ((3, 2), 4 + 36)


def test_what_was_requested_is_read_in_order(region: Region) -> None:
    parts = [element(region, i) for i in range(4)]
    reader = ReadAhead(2, slot_bytes(parts[:1]))
    futures = [reader.request([part]) for part in parts]
    for i, future in enumerate(futures):
        with future.result() as arrays:
            np.testing.assert_array_equal(arrays[0], np.arange(6 * i, 6 * i + 6).reshape(3, 2))
    reader.close()


def test_memory_that_is_not_given_back_is_not_overwritten(region: Region) -> None:
    reader = ReadAhead(2, slot_bytes([element(region, 0)]))
    first, second, third = (reader.request([element(region, i)]) for i in range(3))
    kept = first.result()
    second.result().give_back()
    third.result().give_back()
    np.testing.assert_array_equal(kept.arrays[0], np.arange(6).reshape(3, 2))
    kept.give_back()
    reader.close()


def test_a_file_that_ends_too_soon_is_named(region: Region) -> None:
    longer = region._replace(shape=(5, 3, 2))
    with pytest.raises(CheckpointError, match="tensor"):
        read_region(longer, np.empty(longer.num_bytes, np.uint8))


def test_requests_that_fail_take_no_memory_from_those_that_follow(region: Region) -> None:
    longer = region._replace(shape=(5, 3, 2))
    reader = ReadAhead(2, slot_bytes([longer]))
    requests = [reader.request([longer]) for _ in range(3)]
    for request in requests:
        with pytest.raises(CheckpointError, match="tensor"):
            request.result(timeout=10)
    with reader.request([element(region, 0)]).result(timeout=10) as (first,):
        np.testing.assert_array_equal(first, np.arange(6).reshape(3, 2))
    reader.close()
