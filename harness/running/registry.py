"""Finds a candidate by what the user calls it, without importing it."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from grok_conformance.harness.formats.suggestions import unknown

ENTRY_POINTS = "grok_conformance.candidates"
"""The group of entry points in which an installed port gives its adapter a name: `my_port = "my_package.adapter"`."""

REACH_SECONDS = 5.0
"""How long a server may take to be reached, before it is asked anything."""

CANDIDATES_DIR = Path(__file__).resolve().parents[2] / "candidates"
EXTRAS = "extras.toml"


class UnknownCandidateError(ValueError):
    """Raised for a candidate that cannot be found; the message is one line."""


@dataclass(frozen=True)
class Candidate:
    """A candidate's name and the command that answers a job: JOB_DIR and OUT_DIR are appended to it.

    One that `serves_many` takes several such pairs. One that `compiles` does so anew for every shape that it is asked.
    """

    name: str
    command: tuple[str, ...]
    serves_many: bool = False
    compiles: bool = False


def builtin_names(folder: Path = CANDIDATES_DIR) -> tuple[str, ...]:
    """Return the names of the built-in candidates: the modules and packages in `candidates/`."""
    modules = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    return tuple(sorted(name for name in modules if not name.startswith("_")))


def default_names(folder: Path = CANDIDATES_DIR) -> tuple[str, ...]:
    """Return the built-in candidates that a run judges unless told otherwise: all but those marked `by_name`.

    Those that compile their programs come last: a verdict on the others need not wait for them.
    """
    needs = read_needs(folder)
    names = [name for name in builtin_names(folder) if not needs.get(name, {}).get("by_name", False)]
    return tuple(sorted(names, key=lambda name: needs.get(name, {}).get("compiles", False)))


def read_needs(folder: Path = CANDIDATES_DIR) -> dict[str, dict[str, Any]]:
    """Return what is told of built-in candidates beside their modules (`candidates/extras.toml`), by name."""
    return tomllib.loads((folder / EXTRAS).read_text())


def missing_extra(name: str, folder: Path = CANDIDATES_DIR) -> str:
    """Return the extra that a built-in candidate needs and that is not installed, an empty string if there is none."""
    needs = read_needs(folder).get(name)
    if needs is None or all(importlib.util.find_spec(module) is not None for module in needs["modules"]):
        return ""
    return str(needs["extra"])


def absences(names: Iterable[str]) -> dict[str, str]:
    """Return why some candidates cannot run here, by name, for those whose extra is missing."""
    return {
        name: f"extra {extra} is not installed (pip install '.[{extra}]')"
        for name in names
        if (extra := missing_extra(name))
    }


def installed_modules() -> dict[str, str]:
    """Return the modules of installed ports by name: the entry points of the group `grok_conformance.candidates`."""
    from importlib import metadata  # noqa: PLC0415 - slow to import, and most names are built in

    return {point.name: point.value for point in metadata.entry_points(group=ENTRY_POINTS)}


def find_candidate(name: str) -> Candidate:
    """Find a built-in name, an installed one, `path/to/file.py`, a program, or `package.module`, in this order.

    A file that begins with `#!` is a program whatever its name. Raises UnknownCandidateError.
    """
    if name in builtin_names():
        compiles = read_needs().get(name, {}).get("compiles", False)
        return replace(_python(name, f"grok_conformance.candidates.{name}"), compiles=compiles)
    if name in installed_modules():
        return _python(name, installed_modules()[name])
    path = Path(name)
    if path.is_file():
        return _from_file(name, path)
    if all(part.isidentifier() for part in name.split(".")) and _module_exists(name):
        return _python(name, name)
    if path.suffix == ".py" or os.sep in name:
        raise UnknownCandidateError(f"{name}: no such file: give the path of the port, from {Path.cwd()}")
    raise UnknownCandidateError(
        f"{unknown('candidate', name, (*builtin_names(), *installed_modules()))} "
        "(package.module, path/to/file.py and the path of an executable program work too)"
    )


def served(url: str, model: str, top: int) -> Candidate:
    """Return a running server as a candidate (`running.endpoint`); raises UnknownCandidateError where there is none."""
    check_reachable(url)
    module = "grok_conformance.harness.running.endpoint"
    return Candidate(model, (sys.executable, "-m", module, url, model, str(top)))


def check_reachable(url: str) -> None:
    """Raise UnknownCandidateError unless something listens at an address of HTTP."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        with socket.create_connection((parts.hostname or "", port), REACH_SECONDS):
            return
    except (KeyError, ValueError):
        raise UnknownCandidateError(f"--endpoint {url}: no address: give one such as http://127.0.0.1:8000") from None
    except OSError as error:
        reason = error.strerror or str(error)
        raise UnknownCandidateError(f"--endpoint {url}: {reason}: is the server running?") from None


def source_of(name: str) -> Path | None:
    """Return the file of a candidate, or the first of its package; None where it has none, as a server."""
    path = Path(name)
    if name in builtin_names():
        found = [CANDIDATES_DIR / f"{name}.py", CANDIDATES_DIR / name / "__init__.py"]
        return next(each for each in found if each.is_file())
    if path.is_file():
        return path.resolve()
    parts = installed_modules().get(name, name).split(".")
    if not all(part.isidentifier() for part in parts):
        return None
    top = parts[0]
    spec = PathFinder.find_spec(top, [str(Path.cwd())]) or importlib.util.find_spec(top)
    return Path(str(spec.origin)) if spec is not None and spec.has_location else None


def _from_file(name: str, path: Path) -> Candidate:
    if path.suffix == ".py" and not _is_script(path):
        return _python(name, str(path.resolve()))
    if not os.access(path, os.X_OK):
        raise UnknownCandidateError(f"{path}: neither a Python module nor executable: chmod +x {path}")
    return Candidate(name, (str(path.resolve()),))


def _is_script(path: Path) -> bool:
    """Return whether a file names its own interpreter in its first line."""
    with path.open("rb") as file:
        return file.read(2) == b"#!"


def _python(name: str, module: str) -> Candidate:
    command = (sys.executable, "-X", "faulthandler", "-m", "grok_conformance.harness.running.python_runner", module)
    return Candidate(name, command, serves_many=True)


def _module_exists(name: str) -> bool:
    """Return whether a dotted module can be found, without importing any of its packages."""
    top, *rest = name.split(".")
    spec = PathFinder.find_spec(top, [str(Path.cwd())]) or importlib.util.find_spec(top)
    for depth, _ in enumerate(rest, start=2):
        if spec is None or spec.submodule_search_locations is None:
            return False
        spec = PathFinder.find_spec(".".join(name.split(".")[:depth]), list(spec.submodule_search_locations))
    return spec is not None
