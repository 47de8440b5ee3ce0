"""The files of the programs that a process runs: of its modules, and of what the system has loaded for it.

A Python port's process leaves them beside its answers, each with its size, time and place. From them it is told later
whether a system library, or a module that lies where nobody looks for one, has changed since.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from grok_conformance.harness.formats.files import FileError, plain_path, read_json, write_json

NAME = "program_files.json"

MAPS = Path("/proc/self/maps")
"""What Linux has put into the memory of this process, a line each."""

PATH_COLUMN = 5
MEMORY_FILE = "/memfd:"
"""How the name of what never was a file begins."""

GONE = "gone"


def write_program_files(out_dir: Path, maps: Path = MAPS) -> None:
    """Leave the files of this process in a folder of answers; where they cannot be told or written, nothing."""
    with contextlib.suppress(OSError, ValueError):  # a port's answers do not hang on it
        found = {*module_files(), *mapped_programs(maps.read_text(errors="replace").splitlines())}
        write_json(out_dir / NAME, {path: first_known_as(path) for path in sorted(found)}, lasting=False)


def known_as(path: str) -> str:
    """Return by what a file is known that is not read; GONE for one that is gone."""
    try:
        return known_by(os.stat(path))  # noqa: PTH116 - asked of hundreds: a Path costs
    except OSError:
        return GONE


first_known_as = functools.cache(known_as)
"""As a file was when it was first asked for: a process asks after each of its jobs."""


def known_by(told: os.stat_result) -> str:
    """Return by what a file is known that is not read: its size, time and place."""
    return f"{told.st_size} {told.st_mtime_ns} {told.st_ino}"


def module_files() -> list[str]:
    """Return the files of the modules that this process has imported; a name that is not absolute is made up."""
    modules = [module for module in list(sys.modules.values()) if isinstance(module, ModuleType)]
    files = [vars(module).get("__file__") for module in modules]  # asking a lazy one would import it
    return [file for file in files if isinstance(file, str) and file.startswith("/")]


def mapped_programs(maps: Sequence[str]) -> list[str]:
    """Return the files that are mapped to be executed; one that is gone by now ends in ` (deleted)`."""
    rows = [line.split(maxsplit=PATH_COLUMN) for line in maps]
    paths = [row[PATH_COLUMN] for row in rows if len(row) > PATH_COLUMN and "x" in row[1]]
    return [path for path in paths if path.startswith("/") and not path.startswith(MEMORY_FILE)]


def read_program_files(out_dir: Path) -> dict[str, str]:
    """Read what `write_program_files` left; raises FileError where there is nothing, or something else."""
    path, problem = plain_path(out_dir, NAME)
    if problem:
        raise FileError(f"{path}: {problem}")
    found = read_json(path)
    if not isinstance(found, dict) or not all(isinstance(x, str) and file.startswith("/") for file, x in found.items()):
        raise FileError(f"{path}: no table of files")
    return found
