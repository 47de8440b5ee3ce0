"""Finished steps of a long measurement, kept on disk: what was stopped goes on where it was.

A step is kept under what it hangs on: the sources, the golden set, the versions of the engines and its arguments.
"""

from __future__ import annotations

import functools
import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import TypeVar

ROOT = Path(__file__).parents[2]

FOLDER = ROOT / "build" / "mutation"

SOURCES = ("harness/**/*.py", "candidates/**/*.py", "reference/**/*.py", "tests/**/*.py", "golden/*/manifest.json")

ENGINES = ("numpy", "jax", "jaxlib", "torch")

Row = TypeVar("Row")


@functools.cache
def state() -> str:
    """Return the sha256 of everything but its arguments that a step hangs on."""
    digest = hashlib.sha256(" ".join(version(engine) for engine in ENGINES).encode())
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def kept(step: Callable[..., Row], *arguments: object) -> Row:
    """Return what a step gave before, or run it and keep what it gives."""
    digest = hashlib.sha256(repr(arguments).encode()).hexdigest()[:16]
    path = FOLDER / state() / f"{step.__name__}-{digest}.pickle"
    if path.exists():
        before: Row = pickle.loads(path.read_bytes())  # noqa: S301 -- our own file
        return before
    found = step(*arguments)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".partial{os.getpid()}")
    unfinished.write_bytes(pickle.dumps(found))
    unfinished.replace(path)
    return found


def forget() -> None:
    """Remove what is kept of the present state: what it was kept for is published."""
    shutil.rmtree(FOLDER / state(), ignore_errors=True)
