from __future__ import annotations

from pathlib import Path

import pytest

from tests.fault_detection import kept_steps
from tests.fault_detection.kept_steps import forget, kept


def counted(folder: Path, number: int) -> int:
    """Return a number, and leave a mark in a folder for every time it is worked out."""
    with (folder / "runs").open("a") as file:
        file.write(f"{number}\n")
    return number


def runs(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split()


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_steps, "FOLDER", tmp_path / "kept")


def test_a_finished_step_is_not_run_again(tmp_path: Path) -> None:
    assert [kept(counted, tmp_path, number) for number in (1, 2, 1, 2)] == [1, 2, 1, 2]
    assert runs(tmp_path) == ["1", "2"]


def test_a_step_that_raised_is_run_again(tmp_path: Path) -> None:
    missing = tmp_path / "not here yet"
    with pytest.raises(FileNotFoundError):
        kept(counted, missing, 3)
    missing.mkdir()
    assert kept(counted, missing, 3) == 3


def test_a_step_is_run_again_where_a_source_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept(counted, tmp_path, 1)
    monkeypatch.setattr(kept_steps, "state", lambda: "of another source")
    kept(counted, tmp_path, 1)
    assert runs(tmp_path) == ["1", "1"]


def test_the_state_hangs_on_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_steps, "ROOT", tmp_path)
    (tmp_path / "harness").mkdir()
    source = tmp_path / "harness" / "fence.py"
    source.write_text("LIMIT = 1\n")
    before = kept_steps.state.__wrapped__()
    assert kept_steps.state.__wrapped__() == before
    source.write_text("LIMIT = 2\n")
    assert kept_steps.state.__wrapped__() != before


def test_what_is_published_is_forgotten(tmp_path: Path) -> None:
    kept(counted, tmp_path, 1)
    forget()
    kept(counted, tmp_path, 1)
    assert runs(tmp_path) == ["1", "1"]
