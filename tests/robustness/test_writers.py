"""Writers that are killed, meet each other, or find no room: the old golden stays, and nobody overwrites it unasked."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.golden.reading import FixtureError
from grok_conformance.harness.golden.writing import whole_folder
from grok_conformance.harness.running.child_process import ROOT
from tests.harness.tiny_golden import write_tiny
from tests.robustness.trials import everything, outcome

KILLED_WRITER = Path(__file__).with_name("killed_writer.py")


def python(*arguments: str, **keywords: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, *arguments], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)}, **keywords,
    )  # fmt: skip


def test_a_writer_killed_at_any_system_call_leaves_a_whole_set(
    tmp_path: Path, request: pytest.FixtureRequest, tried: Counter[str]
) -> None:
    every, num_random = (1, 40) if request.config.getoption("--thorough") else (5, 4)
    done = python(str(KILLED_WRITER), str(tmp_path), str(every), str(num_random))
    assert done.returncode == 0, done.stderr
    num_points = int(done.stdout)
    assert num_points > 50 // every
    tried["killed writers"] += num_points + num_random


def test_of_two_writers_at_once_one_wins_and_the_other_is_told(tmp_path: Path) -> None:
    with whole_folder(tmp_path / "v1") as folder:
        (folder / "first.txt").write_text("first")
        with pytest.raises(FixtureError, match="another capture is writing"):
            write_tiny(tmp_path / "v1")
    assert everything(tmp_path) == {"v1/first.txt": b"first"}


ONE_CASE_AT_ONCE = """
import sys, time
from pathlib import Path
from grok_conformance.harness.sessions import capture
from grok_conformance.harness.__main__ import main

folder, name = Path(sys.argv[1]), sys.argv[2]
group = min(capture.suite_groups(), key=lambda group: sum(weight.nbytes for weight in group.preset.weights.values()))
capture.suite_groups = lambda: (group,)
(folder / name).touch()
while not all((folder / each).exists() for each in ("first", "second")):
    time.sleep(0.001)
sys.exit(main(["capture", "--out", str(folder / "v1")]))
"""
"""A capture of the smallest group of the suite that begins when a second one does."""


def test_of_two_captures_at_once_one_is_whole_and_the_other_is_told(tmp_path: Path) -> None:
    with ThreadPoolExecutor() as both:
        done = list(both.map(lambda name: python("-c", ONE_CASE_AT_ONCE, str(tmp_path), name), ("first", "second")))
    winner, loser = sorted(done, key=lambda each: each.returncode)
    assert winner.returncode == 0, winner.stderr
    assert loser.returncode == 2
    assert (
        loser.stderr == f"{tmp_path}/.v1.partial: another capture is writing, or was killed; if none runs, remove it\n"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["first", "second", "v1"]
    check_golden(tmp_path / "v1")


FAILING: dict[str, tuple[int, str, str]] = {
    "full disk at fsync": (errno.ENOSPC, "os", "fsync"),
    "full disk at mkdir": (errno.ENOSPC, "os", "mkdir"),
    "read-only folder": (errno.EROFS, "os", "mkdir"),
    "read-only at rename": (errno.EROFS, "os", "rename"),
    "read-only at replace": (errno.EROFS, "os", "replace"),
    "input-output error at open": (errno.EIO, "io", "open"),
}


@pytest.mark.parametrize("failure", FAILING)
def test_a_writer_that_the_disk_refuses_leaves_the_old_set(
    failure: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, module, name = FAILING[failure]
    write_tiny(tmp_path / "v1")
    before = everything(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr({"os": os, "io": io}[module], name, refusing(code))
        with pytest.raises(FileError) as refused:
            write_tiny(tmp_path / "v1", seed=1, replace_ids=("*",))
    assert os.strerror(code) in str(refused.value)
    assert str(refused.value).isprintable()
    assert everything(tmp_path) == before


def refusing(code: int) -> Callable[..., Any]:
    def refuse(*_arguments: Any, **_keywords: Any) -> Any:
        raise OSError(code, os.strerror(code))

    return refuse


def test_a_file_that_grows_beyond_what_is_allowed_is_not_left_behind(tmp_path: Path) -> None:
    """The size limit of the process is a full disk that the kernel itself reports."""
    (tmp_path / "old.json").write_text("{}")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from grok_conformance.harness.formats.files import write_json\n"
        "free = resource.getrlimit(resource.RLIMIT_FSIZE)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, free[1]))\n"
        "try:\n    write_json(Path(sys.argv[1]) / 'old.json', 'x' * 100_000)\n"
        "except OSError as error:\n    resource.setrlimit(resource.RLIMIT_FSIZE, free)\n    sys.exit(error.strerror)"
    )
    done = python("-c", script, str(tmp_path))
    assert done.stderr.strip() == os.strerror(errno.EFBIG)
    assert everything(tmp_path) == {"old.json": b"{}"}


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ELOOP])
def test_a_set_that_cannot_be_read_is_refused(code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root may read anything, so that the refusal is put in: `open` of a file of the set fails."""
    golden = tmp_path / "v1"
    write_tiny(golden)
    for name in everything(golden):
        with monkeypatch.context() as patch:
            opened = io.open

            def unreadable(path: Any, *rest: Any, name: str = name, opened: Any = opened, **keywords: Any) -> Any:
                if str(path) == str(golden / name):
                    raise OSError(code, os.strerror(code))
                return opened(path, *rest, **keywords)

            patch.setattr(io, "open", unreadable)
            found = outcome(main, ["check-golden", str(golden)])
        assert found.refused, name
        assert os.strerror(code) in found.said
    check_golden(golden)


@pytest.mark.parametrize("target", ["elsewhere", "v1/manifest.json", "/dev/zero", "/", "missing", "v1"])
def test_a_link_in_the_place_of_anything_is_refused(target: str, tmp_path: Path) -> None:
    golden = tmp_path / "v1"
    write_tiny(golden)
    (tmp_path / "elsewhere").write_bytes((golden / "manifest.json").read_bytes())
    for path in tuple(sorted(golden.rglob("*"))):
        aside = tmp_path / "aside"
        path.rename(aside)
        path.symlink_to(target if target.startswith("/") else tmp_path / target)
        found = outcome(main, ["check-golden", str(golden)])
        path.unlink()
        aside.rename(path)
        assert found.refused, f"{path} -> {target}: {found}"
    check_golden(golden)


def test_reports_into_a_folder_that_refuses_them_are_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises((FileError, OSError)):
        write_json(tmp_path / "missing" / "run.json", {})
