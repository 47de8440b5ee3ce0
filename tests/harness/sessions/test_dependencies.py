"""Whatever a verdict depends on cannot change unnoticed."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.commands import run
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.sessions import dependencies as module
from grok_conformance.harness.sessions.dependencies import (
    dependencies,
    digest_of,
    import_places,
    importable,
    installed,
    of_no_package,
    read,
    unknowable,
)
from tests.harness.tiny_golden import write_tiny

TICK_SECONDS = 0.02
"""Older kernels tell times of files by ticks of at most 10 ms."""


def options_of(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    run.add_options(parser)
    return parser.parse_args(words)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with a package of the harness, a candidate, a golden set and an installed package."""
    for name in ("package/harness/judge.py", "package/candidates/port/kernel.c", "site-packages/engine/engine.so"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("0123")
    (tmp_path / "site-packages" / "engine-1.0.dist-info").mkdir()
    (tmp_path / "site-packages" / "engine-1.0.dist-info" / "METADATA").write_text("Version: 1.0")
    (tmp_path / "known.toml").write_text("")
    write_tiny(tmp_path / "golden")
    monkeypatch.setattr(module, "PACKAGE", tmp_path / "package")
    monkeypatch.setattr(module, "import_places", lambda: [tmp_path / "site-packages"])
    return tmp_path


def edit(path: Path) -> None:
    """Change a byte."""
    time.sleep(TICK_SECONDS)
    text = bytearray(path.read_bytes())
    text[-1] ^= 1
    path.write_bytes(text)


def edit_unseen(path: Path) -> None:
    """Change a byte, and give the file its old time again."""
    told = path.stat()
    edit(path)
    os.utime(path, ns=(told.st_atime_ns, told.st_mtime_ns))


def swap_unseen(path: Path) -> None:
    """Put another file of the same size and time in the place of one, as an installer does."""
    told = path.stat()
    other = path.with_name("other")
    other.write_bytes(b"x" * told.st_size)
    os.utime(other, ns=(told.st_atime_ns, told.st_mtime_ns))
    other.replace(path)


CHANGES: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a candidate's file": (
        "the harness or a candidate",
        lambda at: edit_unseen(at / "package/candidates/port/kernel.c"),
    ),
    "a file of the harness": ("the harness or a candidate", lambda at: edit_unseen(at / "package/harness/judge.py")),
    "a new file of the harness": ("the harness or a candidate", lambda at: (at / "package/harness/x.json").touch()),
    "a golden tensor": ("the golden set", lambda at: edit_unseen(next(at.glob("golden/cases/**/taps.safetensors")))),
    "golden weights": ("the golden set", lambda at: edit_unseen(next(at.glob("golden/**/weights.safetensors")))),
    "a golden file that is gone": ("the golden set", lambda at: next(at.glob("golden/cases/**/case.json")).unlink()),
    "an installed file": ("an installed package", lambda at: edit(at / "site-packages/engine/engine.so")),
    "a file installed anew": ("an installed package", lambda at: swap_unseen(at / "site-packages/engine/engine.so")),
    "an installed version": (
        "an installed package",
        lambda at: (at / "site-packages/engine-1.0.dist-info").rename(at / "site-packages/engine-1.1.dist-info"),
    ),
    "a new installed file": ("an installed package", lambda at: (at / "site-packages/numpy.py").touch()),
    "the waivers": ("the file of --waivers", lambda at: (at / "known.toml").write_text("# other")),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_noticed_and_named(change: str, place: Path) -> None:
    options = options_of("--golden", str(place / "golden"), "--waivers", str(place / "known.toml"))
    before = dependencies(options)
    assert dependencies(options) == before
    name, make = CHANGES[change]
    make(place)
    after = dependencies(options)
    assert [each for each in before if before[each] != after[each]] == [name]


@pytest.mark.parametrize("words", [["--case", "ties/*"], ["--dtype", "float32"], ["--ladder"], ["--time-limit", "9"]])
def test_an_option_that_bears_on_verdicts_is_noticed(words: list[str], place: Path) -> None:
    golden = ("--golden", str(place / "golden"))
    before, after = dependencies(options_of(*golden)), dependencies(options_of(*golden, *words))
    assert [name for name in before if before[name] != after[name]] == ["an option"]


@pytest.mark.parametrize(
    "words", [["--json", "x"], ["--quiet"], ["--strict"], ["--candidate", "a"], ["--require", "a:logits"], ["--reuse"]]
)
def test_what_is_made_of_verdicts_is_no_change(words: list[str]) -> None:
    assert module.bearing(options_of(*words)) == module.bearing(options_of())


def test_every_option_bears_on_verdicts_unless_it_is_known_not_to() -> None:
    bearing = {line.split()[0] for line in module.bearing(options_of())}
    assert set(vars(options_of())) - bearing == module.OF_NO_ACCOUNT & set(vars(options_of()))
    assert module.OF_NO_ACCOUNT - set(vars(options_of())) <= {"execute", "words"}
    assert {"case", "dtype", "golden", "ladder", "layer", "operation", "time_limit", "waivers"} <= bearing


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "PYTHON_MY_SWITCH", "LD_PRELOAD", "NPY_DISABLE_CPU_FEATURES"])
def test_a_variable_that_candidates_or_judges_are_given_is_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = module.environment({})
    assert module.environment({name: "1"}) != before
    assert module.environment({name: "1"}) != module.environment({name: "2"})
    monkeypatch.setenv(name, "3")
    assert f"{name}=3" in module.environment(os.environ)


def test_a_variable_that_they_are_not_given_is_no_change() -> None:
    assert module.environment({"GITHUB_TOKEN": "x"}) == module.environment({})


def test_the_folder_that_a_run_is_started_in_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = module.environment({})
    monkeypatch.chdir(tmp_path)
    assert module.environment({}) != before


def test_python_and_the_processor_are_known() -> None:
    told = " ".join(module.machine())
    assert sys.version in told
    assert "cpu_features " in told
    assert "processors " in told


def test_the_whole_golden_set_and_all_files_of_the_packages_are_read() -> None:
    assert sum(".safetensors " in line for line in read(GOLDEN)) == len([*GOLDEN.rglob("*.safetensors")])
    files = {line.rsplit(" ", 2)[0].partition("/grok_conformance/")[2] for line in read(module.PACKAGE)}
    assert {"harness/report/page/script.js", "candidates/extras.toml", "reference/moe.py"} <= files
    assert not [name for name in files if "__pycache__" in name]


def test_where_numpy_lies_is_looked_through() -> None:
    found = digest_of(line for line in installed(import_places()) if line.startswith(f"{Path(np.__file__).parent}/"))
    assert found != digest_of([])


def test_what_python_compiles_and_packages_inside_of_others_are_left_out(tmp_path: Path) -> None:
    for name in ("lib/json/a.py", "lib/__pycache__/a.pyc", "lib/site-packages/b.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert [line.split()[0] for line in installed([tmp_path / "lib"])] == [str(tmp_path / "lib/json/a.py")]


def test_a_link_that_leads_back_ends(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").touch()
    (tmp_path / "inner" / "up").symlink_to(tmp_path)
    (tmp_path / "nowhere").symlink_to(tmp_path / "absent")
    assert len([*module.files_at(str(tmp_path))]) == 1


def test_a_clone_installed_again_is_no_change(tmp_path: Path) -> None:
    place = tmp_path / "site-packages"
    found = []
    for _ in range(2):
        shutil.rmtree(place, ignore_errors=True)
        (place / "port-0.1.dist-info").mkdir(parents=True)
        (place / "port-0.1.dist-info" / "RECORD").write_text("port.pth")
        (place / "port.pth").write_text("/a/clone")
        found.append(digest_of(installed([place])))
    assert found[0] == found[1]
    (place / "port.pth").write_text("/another/clone")
    assert digest_of(installed([place])) != found[0]


def test_of_the_folder_that_a_run_is_started_in_only_modules_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.json").touch()
    (tmp_path / "build").mkdir()
    assert [*installed([tmp_path])] == importable(tmp_path) == []
    (tmp_path / "numpy.py").touch()
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").touch()
    assert [*installed([tmp_path])] == [str(tmp_path / "numpy.py"), str(tmp_path / "torch")]


def test_a_further_link_to_an_installed_file_is_no_change(place: Path) -> None:
    before = digest_of(installed(module.import_places()))
    os.link(place / "site-packages/engine/engine.so", place / "linked.so")
    assert digest_of(installed(module.import_places())) == before


def test_the_files_of_the_harness_are_read_and_not_known_otherwise() -> None:
    assert of_no_package({"/usr/lib/libc.so": "1", f"{module.PACKAGE}/harness/__init__.py": "2"}) == {
        "/usr/lib/libc.so": "1"
    }


def test_with_a_gpu_or_without_a_word_of_the_system_nothing_is_known(tmp_path: Path) -> None:
    (tmp_path / "maps").touch()
    assert unknowable(tmp_path, tmp_path / "maps") == ""
    assert "does not tell" in unknowable(tmp_path, tmp_path / "absent")
    (tmp_path / "nvidia0").touch()
    assert "GPU" in unknowable(tmp_path, tmp_path / "maps")
