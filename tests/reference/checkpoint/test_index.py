"""The index of a checkpoint: one way to write it, so that an altered one is found."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from grok_conformance.reference.checkpoint.index import (
    INDEX_NAME,
    IndexEntry,
    file_name,
    read_index,
    sample_digest,
    verify,
    write_index,
)
from grok_conformance.reference.checkpoint.pickles import CheckpointError

ENTRIES = tuple(
    IndexEntry(file_name(i), f"module_{i}/w", "int8", [4, 2], "bfloat16", [1, 2], "aa" * 32, "bb" * 32)
    for i in range(2)
)


def test_an_index_reads_back_as_it_was_written_and_none_is_none(tmp_path: Path) -> None:
    assert read_index(tmp_path) is None
    write_index(tmp_path, ENTRIES)
    assert read_index(tmp_path) == ENTRIES


@pytest.mark.parametrize(
    ("right", "wrong", "problem"),
    [
        ("module_0", "module_9", "altered"),
        ('"format": 1', '"format": 2', "format 2, expected 1"),
        ("tensor00001", "tensor00007", "entry 1 is about"),
        ("]\n}", "", "not an index"),
        ('"dtype"', '"kind"', "not an index"),
    ],
)
def test_an_index_that_is_not_ours_is_refused(right: str, wrong: str, problem: str, tmp_path: Path) -> None:
    write_index(tmp_path, ENTRIES)
    path = tmp_path / INDEX_NAME
    text = path.read_text()
    assert right in text
    path.write_text(text.replace(right, wrong, 1))
    with pytest.raises(CheckpointError, match=problem):
        read_index(tmp_path)


def test_files_are_named_by_their_place_in_the_tree() -> None:
    assert [file_name(i) for i in (0, 26, 769)] == ["tensor00000_000", "tensor00026_000", "tensor00769_000"]


def test_one_flipped_bit_is_found_by_the_whole_digest_and_another_file_by_the_sample(tmp_path: Path) -> None:
    path = tmp_path / file_name(0)
    path.write_bytes(bytes(200_000))
    first = sample_digest(path)
    entry = IndexEntry(path.name, "w", "int8", [1], None, None, first, hashlib.sha256(path.read_bytes()).hexdigest())
    verify(tmp_path, [entry])
    path.write_bytes(bytes(99_999) + b"\1" + bytes(100_000))
    with pytest.raises(CheckpointError, match="not the sha256"):
        verify(tmp_path, [entry])
    path.write_bytes(b"\1" + bytes(199_999))
    assert sample_digest(path) != first
