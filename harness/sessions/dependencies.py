"""What the verdict on a built-in candidate depends on, as digests: where all are equal, nothing has changed.

Files of the harness, the candidates and the golden set are read; those of installed packages and of the system, which
are many gigabytes, are known by size, time of the last change and place on the disk, all three of which only somebody
who means to deceive leaves as they were. (`ctime` changes with every link that an installer makes to a file.)
What engines keep for themselves, such as compiled programs, follows from the rest.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import re
import stat
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import all_suffixes
from pathlib import Path

import grok_conformance
from grok_conformance.harness.golden.provenance import record_platform
from grok_conformance.harness.running.child_process import PASSED_ON, ROOT
from grok_conformance.harness.running.program_files import known_by

Dependencies = Mapping[str, str]
"""The sha256 of everything that a verdict depends on, by what it is called."""

PACKAGE = Path(grok_conformance.__file__).parent
"""Holds the harness, the reference and the candidates."""

COMPILED = "__pycache__"
INSTALLED_IN = ("site-packages", "dist-packages")

READ = re.compile(r"\.(dist-info|egg-info)/|\.pth$")
"""Of installed packages, the files that are read: installing a clone writes them anew each time."""

TO_JUDGES = re.compile(r"LD_\w+|NPY_\w+")
"""The environment variables that bear on the process of a judge, besides those that a candidate is given."""

ACCELERATORS = ("nvidia[0-9]*", "kfd", "dxg", "accel*")
"""The names of GPUs and their like in `/dev`."""

OF_NO_ACCOUNT = frozenset(
    {"candidate", "detail", "endpoint", "execute", "fresh", "html", "json", "junit", "model", "require", "reuse"}
    | {"seed", "strict", "top_logprobs", "words"}
)
"""The options that no verdict on a built-in candidate depends on: who is asked, and what is made of verdicts.

The seed is compared with the one that was drawn.
"""


def unknowable(devices: Path = Path("/dev"), maps: Path = Path("/proc/self/maps")) -> str:
    """Return why it cannot be known here whether anything has changed, an empty string where it can."""
    if any(next(devices.glob(name), None) is not None for name in ACCELERATORS):
        return "a GPU is here, whose driver and state are not known"
    return "" if maps.is_file() else "this system does not tell what a process has loaded"


def dependencies(options: argparse.Namespace) -> Dependencies:
    """Return what verdicts of a run with some options depend on; raises OSError for a file that cannot be read."""
    waivers = [options.waivers] if options.waivers is not None else []
    return {
        "the golden set": digest_of(read(options.golden)),
        "the harness or a candidate": digest_of(read(PACKAGE)),
        "an installed package": digest_of(installed(import_places())),
        "an environment variable": digest_of(environment(os.environ)),
        "Python or the machine": digest_of(machine()),
        "the file of --waivers": digest_of(line for path in waivers for line in read(path)),
        "an option": digest_of(bearing(options)),
    }


def digest_of(lines: Iterable[str]) -> str:
    """Return the sha256 of some lines."""
    found = hashlib.sha256()
    for line in lines:
        found.update(f"{line}\0".encode(errors="surrogateescape"))
    return found.hexdigest()


def bearing(options: argparse.Namespace) -> list[str]:
    """Return the options that a verdict depends on, a line each."""
    return [f"{name} {value!r}" for name, value in sorted(vars(options).items()) if name not in OF_NO_ACCOUNT]


def environment(variables: Mapping[str, str]) -> list[str]:
    """Return the variables that candidates and judges are given, and the folder that they run in."""
    given = [(key, value) for key, value in variables.items() if PASSED_ON.fullmatch(key) or TO_JUDGES.fullmatch(key)]
    return [f"{Path.cwd()}", *(f"{key}={value}" for key, value in sorted(given))]


def machine() -> list[str]:
    """Return what is known of the interpreter, the system and the processor."""
    processors = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    known = {"python": sys.version, "flags": sys.flags, "system": platform.release(), "processors": processors}
    return [f"{name} {value}" for name, value in {**record_platform(), **known}.items()]


def read(top: Path) -> Iterator[str]:
    """Yield the files at or below a path in order, each with the sha256 of what it holds."""
    for path, told in files_at(str(top)):
        content = Path(path).read_bytes() if stat.S_ISREG(told.st_mode) else b""
        yield f"{path} {told.st_mode} {hashlib.sha256(content).hexdigest()}"


def import_places() -> list[Path]:
    """Return where modules are looked for: the folder that the process runs in, a clone, and what Python names."""
    return [Path(each) for each in dict.fromkeys([str(Path.cwd()), str(ROOT), *filter(None, sys.path)])]


def installed(places: Iterable[Path]) -> Iterator[str]:
    """Yield all that lies where modules are looked for, each file with its size, time and place, or what it holds.

    Of the folder that the process runs in and of a clone, which hold much else, only what there is to import is told.
    """
    here = Path.cwd()
    for place in places:
        if place.name not in INSTALLED_IN and any(each.is_relative_to(place.resolve()) for each in (here, ROOT)):
            yield from importable(place)
            continue
        for path, told in files_at(str(place)):
            yield from read(Path(path)) if READ.search(path) else [f"{path} {known_by(told)}"]


def importable(place: Path) -> list[str]:
    """Return the names of the modules and packages in a folder."""
    modules = [path for path in place.iterdir() if path.name.endswith(tuple(all_suffixes()))]
    return sorted(map(str, [*modules, *(path.parent for path in place.glob("*/__init__.*"))]))


def of_no_package(programs: Mapping[str, str]) -> dict[str, str]:
    """Return of the files that a process ran those that are not the harness's own, which are read."""
    return {path: known for path, known in programs.items() if not path.startswith(f"{PACKAGE}/")}


def files_at(top: str) -> Iterator[tuple[str, os.stat_result]]:
    """Yield the files at or below a path in order, links followed; nothing where there is nothing.

    Left out are what Python compiles, which it checks by itself, and folders of packages inside others, which are
    looked through where modules are looked for in them.
    """
    yield from _files_at(top, frozenset())


def _files_at(path: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield them; `above` are the folders on the way, to which a link may lead back."""
    try:
        told = os.stat(path)  # noqa: PTH116 - asked of tens of thousands: a Path costs
    except (FileNotFoundError, NotADirectoryError):
        return
    key = told.st_dev, told.st_ino
    if not stat.S_ISDIR(told.st_mode):
        yield path, told
    elif key not in above:
        for name in sorted(os.listdir(path)):  # noqa: PTH208 - likewise
            if name != COMPILED and name not in INSTALLED_IN:
                yield from _files_at(f"{path}/{name}", above | {key})
