import sys
import tomllib
from pathlib import Path

import pytest

from grok_conformance.harness.running.registry import (
    CANDIDATES_DIR,
    UnknownCandidateError,
    builtin_names,
    default_names,
    find_candidate,
    missing_extra,
    source_of,
)
from tests.harness.tiny_job import write_adapter

SHIM = (sys.executable, "-X", "faulthandler", "-m", "grok_conformance.harness.running.python_runner")


def test_modules_and_packages_of_the_folder_are_built_in_and_private_ones_are_not(tmp_path: Path) -> None:
    (tmp_path / "port").mkdir()
    for name in ("__init__.py", "port/__init__.py", "reference.py", "_shared.py", "notes.md"):
        (tmp_path / name).touch()
    assert builtin_names(tmp_path) == ("port", "reference")


def test_what_compiles_is_judged_last_and_what_is_marked_by_name_only_when_it_is_asked_for(tmp_path: Path) -> None:
    for name in ("a.py", "b.py", "c.py", "d.py"):
        (tmp_path / name).touch()
    (tmp_path / "extras.toml").write_text("[a]\ncompiles = true\n[c]\nby_name = true\n")
    assert default_names(tmp_path) == ("b", "d", "a")


def test_a_built_in_candidate_is_found_by_its_name() -> None:
    assert find_candidate("torch_eager").command == (*SHIM, "grok_conformance.candidates.torch_eager")
    assert find_candidate("reference").compiles
    assert not find_candidate("torch_eager").compiles


def test_a_candidate_whose_modules_are_not_there_lacks_its_extra(tmp_path: Path) -> None:
    present = '[present]\nextra = "some"\nmodules = ["json"]\n'
    absent = '[absent]\nextra = "other"\nmodules = ["json", "no_such_engine"]\n'
    (tmp_path / "extras.toml").write_text(present + absent)
    assert [missing_extra(name, tmp_path) for name in ("present", "absent", "needs_nothing")] == ["", "other", ""]


def test_the_table_of_extras_names_candidates_and_extras_that_there_are() -> None:
    table = tomllib.loads((CANDIDATES_DIR / "extras.toml").read_text())
    project = tomllib.loads((CANDIDATES_DIR.parent / "pyproject.toml").read_text())["project"]
    assert set(table) <= set(builtin_names())
    assert {needs["extra"] for needs in table.values()} <= set(project["optional-dependencies"])


def test_a_python_file_is_run_by_the_shim_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_adapter(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_candidate("adapter.py").command == (*SHIM, str(path))


def test_an_executable_file_is_its_own_command(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.touch(mode=0o755)
    assert find_candidate(str(program)).command == (str(program),)


def test_a_python_file_that_names_its_interpreter_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text("#!/usr/bin/env python3\n")
    with pytest.raises(UnknownCandidateError, match=r"chmod \+x"):
        find_candidate(str(program))
    program.chmod(0o755)
    assert find_candidate(str(program)).command == (str(program),)


def test_a_file_that_is_not_executable_is_refused_with_the_remedy(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.touch(mode=0o644)
    with pytest.raises(UnknownCandidateError, match=r"neither a Python module nor executable: chmod \+x"):
        find_candidate(str(program))


def test_a_dotted_module_is_found_without_importing_any_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "a_package_of_mine" / "inner"
    package.mkdir(parents=True)
    for folder in (package.parent, package):
        (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "adapter.py").write_text("raise RuntimeError('imported')")
    monkeypatch.chdir(tmp_path)
    name = "a_package_of_mine.inner.adapter"
    assert find_candidate(name).command == (*SHIM, name)
    with pytest.raises(UnknownCandidateError):
        find_candidate("a_package_of_mine.inner.absent")
    with pytest.raises(UnknownCandidateError):
        find_candidate("a_package_of_mine.inner.adapter.deeper")


def test_an_installed_port_is_found_by_the_name_of_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "some_port-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-port\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[grok_conformance.candidates]\nsome-port = some_package.adapter\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert find_candidate("some-port").command == (*SHIM, "some_package.adapter")
    with pytest.raises(UnknownCandidateError, match="did you mean some-port"):
        find_candidate("some-prt")


@pytest.mark.parametrize("name", ["no/such/file.py", "file.py", "./program"])
def test_a_file_that_is_not_there_is_told_as_one(name: str) -> None:
    with pytest.raises(UnknownCandidateError, match=f"^{name}: no such file: give the path of the port, from "):
        find_candidate(name)


@pytest.mark.parametrize("name", ["", ".", "..", "no_such_module", "no_such.module", "a b"])
def test_an_unknown_candidate_is_one_line_that_says_what_may_be_given(name: str) -> None:
    with pytest.raises(UnknownCandidateError) as raised:
        find_candidate(name)
    assert str(raised.value).startswith(f"no candidate {name!r}; ")
    assert "package.module, path/to/file.py and the path of an executable program work too" in str(raised.value)


def test_a_misspelt_built_in_candidate_is_suggested() -> None:
    with pytest.raises(UnknownCandidateError, match="did you mean torch_eager"):
        find_candidate("torch_eagr")


def test_the_source_of_a_candidate_is_its_file_or_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert source_of("numpy_float64") == CANDIDATES_DIR / "numpy_float64.py"
    assert source_of("torch_eager") == CANDIDATES_DIR / "torch_eager" / "__init__.py"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("raise SystemExit('imported')\n")
    assert source_of("my_package.port") == tmp_path / "my_package" / "__init__.py"
    assert source_of("http://127.0.0.1:8000") is None
    assert source_of("served") is None
