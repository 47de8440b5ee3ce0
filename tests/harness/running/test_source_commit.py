"""The commit of a port's own repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from grok_conformance.harness.running.source_commit import source_commit

IDENTITY = ("-c", "user.name=author", "-c", "user.email=author@example.org")


def git(folder: Path, *words: str) -> str:
    ran = subprocess.run(  # noqa: S603 - fixed
        ["git", "-C", str(folder), *IDENTITY, *words],  # noqa: S607 - the one on the path
        capture_output=True,
        text=True,
        check=True,
    )
    return ran.stdout.strip()


@pytest.fixture
def port(tmp_path: Path) -> Path:
    """Return the file of a port that a repository tracks."""
    path = tmp_path / "port.py"
    path.write_text("INFO = 1\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", "port.py")
    git(tmp_path, "commit", "--quiet", "--message", "a port")
    return path


def test_it_is_the_commit_of_the_repository_that_tracks_the_file(port: Path) -> None:
    assert source_commit(port) == git(port.parent, "rev-parse", "--short=12", "HEAD")


def test_it_says_where_a_file_was_changed(port: Path) -> None:
    port.write_text("INFO = 2\n")
    assert source_commit(port).endswith("-dirty")


def test_a_file_that_is_not_tracked_has_none(port: Path, tmp_path: Path) -> None:
    assert source_commit(port.with_name("other.py")) == ""
    outside = tmp_path / "outside"
    outside.mkdir()
    assert source_commit(outside / "port.py") == ""


def test_without_git_there_is_none(port: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(*_: object, **__: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert source_commit(port) == ""
