"""The lock of large goldens: a name stands for one capture, and a capture found by name is verified."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large import lock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "large" / "grok-1"
    made.mkdir(parents=True)
    (made / MANIFEST).write_text("{}")
    return made


def test_what_was_entered_is_found_by_its_name_and_verified(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock.json"
    lock.add("grok-1", folder, "a bucket", path)
    assert lock.read_lock(path)["grok-1"].num_bytes == 2
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(folder.parent))
    assert lock.find("grok-1", path) == folder
    (folder / MANIFEST).write_text("{ }")
    with pytest.raises(FileError, match=r"not the capture in .*source: a bucket"):
        lock.find("grok-1", path)


def test_a_name_that_stands_for_another_capture_is_not_taken_again(folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "lock.json"
    lock.add("grok-1", folder, "a bucket", path)
    before = path.read_bytes()
    (folder / MANIFEST).write_text("[]")
    with pytest.raises(FileError, match="another capture already"):
        lock.add("grok-1", folder, "a bucket", path)
    assert path.read_bytes() == before


def test_an_unknown_name_and_an_unset_folder_are_told(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "lock.json"
    lock.add("grok-1", folder, "a bucket", path)
    monkeypatch.delenv(lock.FOLDER_VARIABLE, raising=False)
    with pytest.raises(FileError, match="neither a folder nor a name"):
        lock.find("grok-2", path)
    with pytest.raises(FileError, match=f"set {lock.FOLDER_VARIABLE}"):
        lock.find("grok-1", path)


def test_a_folder_is_found_by_its_path_and_the_committed_lock_can_be_read(folder: Path) -> None:
    assert lock.find(str(folder)) == folder
    assert all(len(entry.manifest) == 64 for entry in lock.read_lock().values())
