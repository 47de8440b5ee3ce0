from __future__ import annotations

import os
from pathlib import Path

import pytest

from grok_conformance.harness.formats.scratch import remove_tree, scratch_folder


def nest(folder: Path, depth: int) -> None:
    """Make folders inside one another, deeper than a path may be long or a function may recurse."""
    number = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("inside", dir_fd=number)
        inner = os.open("inside", os.O_RDONLY, dir_fd=number)
        os.close(number)
        number = inner
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=number))
    os.close(number)


def test_folders_nested_more_than_a_thousand_times_are_removed() -> None:
    with scratch_folder() as folder:
        nest(folder, 1200)
    assert not folder.exists()


def test_barred_folders_files_and_pipes_are_removed_and_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept.txt").write_text("kept")
    with scratch_folder() as folder:
        (folder / "barred" / "inside").mkdir(parents=True)
        (folder / "barred" / "inside" / "file").write_text("")
        os.mkfifo(folder / "barred" / "pipe")
        (folder / "barred" / "link").symlink_to(outside)
        (folder / "link").symlink_to(outside)
        (folder / "barred" / "inside").chmod(0)
        (folder / "barred").chmod(0)
    assert not folder.exists()
    assert (outside / "kept.txt").read_text() == "kept"


def test_it_is_removed_after_an_error_too() -> None:
    with pytest.raises(ValueError, match="midway"), scratch_folder() as folder:
        raise ValueError("midway")
    assert not folder.exists()


def test_what_is_gone_already_or_cannot_be_removed_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    remove_tree(tmp_path / "absent")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("")

    def refused(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(Path, "unlink", refused)
    remove_tree(tmp_path / "kept")
    assert (tmp_path / "kept" / "file").exists()
