"""The distribution owns one import name, holds all that it reads, and works beside a port's own `harness` folder."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
READ_AT_RUN_TIME = (
    "candidates/extras.toml",
    "golden/schema/taps.json",
    "golden/v1/manifest.json",
    "harness/PROTOCOL.md",
    "harness/contract/template.py",
    "harness/faults/power.json",
    "harness/report/page",
    "harness/report/report.schema.json",
    "py.typed",
    "reference/SPEC.md",
)
PORT = "from grok_conformance.candidates.numpy_float64 import INFO, load\n"


def run(command: Sequence[str], folder: Path, variables: Mapping[str, str] | None = None) -> str:
    """Run a Python module in a folder, expect exit status 0, and return what it printed."""
    hidden = ("PYTHON", "PYTEST", "COV_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(hidden)}
    ran = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**environment, **(variables or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    return ran.stdout


def build(source: Path, kind: str, folder: Path) -> Path:
    run(["hatchling", "build", "-t", kind, "-d", str(folder)], source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return the environment in which the wheel's content comes before every other import."""
    folder = tmp_path_factory.mktemp("site")
    shutil.unpack_archive(wheel, folder, "zip")
    return {"PYTHONPATH": str(folder)}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Return a port's repository, whose own folder `harness` no one may import by mistake."""
    (tmp_path / "harness").mkdir()
    for name in ("__init__", "__main__"):
        (tmp_path / "harness" / f"{name}.py").write_text("raise SystemExit('the harness of the port')\n")
    (tmp_path / "my_port.py").write_text(PORT)
    (tmp_path / "test_port.py").write_text("def test_of_the_port():\n    pass\n")
    return tmp_path


def test_the_wheel_owns_one_name_and_holds_all_that_is_read_at_run_time(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    (metadata,) = tops - {"grok_conformance"}
    assert re.fullmatch(r"grok_conformance-[\d.]+\.dist-info", metadata)
    assert f"{metadata}/licenses/LICENSE" in names
    absent = [each for each in READ_AT_RUN_TIME if not any(f"grok_conformance/{each}" in name for name in names)]
    assert absent == []
    assert [name for name in names if "/tests/" in name or "__pycache__" in name] == []


def test_the_source_distribution_builds_the_same_wheel(wheel: Path, tmp_path: Path) -> None:
    shutil.unpack_archive(build(ROOT, "sdist", tmp_path / "sdist"), tmp_path / "source", "gztar", filter="data")
    (source,) = (tmp_path / "source").iterdir()
    again = build(source, "wheel", tmp_path / "wheel")
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())


def test_the_tests_of_a_port_with_a_harness_of_its_own_run(installed: dict[str, str], repository: Path) -> None:
    where = run(["pytest", "-q", "--trace-config"], repository, installed)
    assert "1 passed" in where
    assert re.search(rf"{re.escape(installed['PYTHONPATH'])}/grok_conformance/harness/pytest_plugin\.py", where)


def test_pytest_judges_such_a_port(installed: dict[str, str], repository: Path) -> None:
    options = ("--conformance-candidate", "my_port.py", "--conformance-case", "unequal/prefill/single_token.float32")
    words = run(["pytest", "-q", *options, "test_port.py"], repository, installed)
    assert int(re.findall(r"(\d+) passed", words)[0]) > 20


def test_the_command_says_its_version_wherever_it_is_called(
    installed: dict[str, str], repository: Path, wheel: Path
) -> None:
    words = run(["grok_conformance", "--version"], repository, installed)
    assert words == f"grok-conformance {wheel.name.split('-')[1]}\n"


def test_the_constraints_hold_one_fitting_version_of_all_that_is_required_and_no_address() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert [line for line in lines if not re.fullmatch(r"[\w.-]+==[\w.]+", line)] == []
    tested = {canonicalize_name(name): version for name, version in (line.split("==") for line in lines)}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *project["dependency-groups"].values(),
    ]
    required = [Requirement(each) for group in groups for each in group]
    absent = [str(each) for each in required if tested.get(canonicalize_name(each.name), "") not in each.specifier]
    assert absent == []
