from __future__ import annotations

import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats import on_disk
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import TensorFile, open_tensors, write_tensors

TENSORS: dict[str, Array] = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(9, dtype=np.int8)}


@pytest.fixture(params=["whole", "in parts"])
def file(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TensorFile:
    """A file on disk that is small enough to be read whole, or is not."""
    if request.param == "in parts":
        monkeypatch.setattr(on_disk, "MAX_WHOLE_BYTES", 1)
    monkeypatch.setattr(on_disk.HELD, "max_bytes", 0)  # every time it is asked for
    write_tensors(tmp_path / "taps.safetensors", TENSORS)
    opened = open_tensors(tmp_path / "taps.safetensors", on_disk=True)
    time.sleep(0.02)  # the clock of the file system ticks so often at least
    return opened


def same(read: TensorFile) -> bool:
    return set(read) == set(TENSORS) and all(np.array_equal(read[name], x) for name, x in TENSORS.items())


def test_tensors_on_disk_are_those_that_are_read(file: TensorFile) -> None:
    assert same(file)
    assert not file["a"].flags.writeable


def test_what_is_handed_to_another_process_is_no_more_than_where_they_lie(file: TensorFile) -> None:
    path = file.path.with_name("large.safetensors")
    write_tensors(path, {"a": np.zeros(10**6, np.float32)})
    sent = pickle.dumps(open_tensors(path, on_disk=True))
    assert len(sent) < 1000
    assert same(pickle.loads(pickle.dumps(file)))  # noqa: S301 - written above


def test_a_file_that_changes_meanwhile_is_an_error_that_names_it(file: TensorFile) -> None:
    with file.path.open("r+b") as opened:
        opened.seek(-1, os.SEEK_END)
        opened.write(b"\x07")
    with pytest.raises(FileError, match=r"taps\.safetensors: was changed while it was judged"):
        file["b"]


def test_a_file_that_is_cut_short_or_replaced_or_gone_is_one_too(file: TensorFile) -> None:
    whole = file.path.read_bytes()
    os.truncate(file.path, len(whole) - 1)
    with pytest.raises(FileError, match="was changed"):
        file["a"]
    file.path.unlink()
    with pytest.raises(FileError, match="cannot be read any more: No such file"):
        file["a"]
    file.path.write_bytes(whole)
    with pytest.raises(FileError, match="was changed"):
        file["a"]


def test_what_is_small_and_was_asked_for_last_is_read_once(file: TensorFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(on_disk.HELD, "max_bytes", 1000)
    assert np.shares_memory(file["a"], file["a"]) == (on_disk.MAX_WHOLE_BYTES > 1)
