"""Kills a writer of a golden set at its system calls, and at random: `killed_writer.py FOLDER EVERY NUM_RANDOM`.

The old set, the new one, or (between the two renames of a replacement) the old one under its other name must be there
whole, and the next writer must succeed. A process of its own, since it forks; prints how many points were tried.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.audit import check_golden
from tests.harness.tiny_golden import write_tiny

CALLS = ("fsync", "replace", "rename", "mkdir", "unlink", "rmdir", "open", "scandir")
"""The system calls by which a set is written, each of them a point to be killed at, before and after."""


def main(folder: Path, every: int, num_random: int) -> None:
    """Try every so many-th point, and some moments at random."""
    point = 0
    while killed_at(folder, point):
        check_and_mend(folder, f"call {point}")
        point += every
    for seed in range(num_random):
        killed_at_random(folder, random.Random(seed).uniform(0, 0.06))  # noqa: S311 - a time, no secret
        check_and_mend(folder, f"random {seed}")
    sys.stdout.write(f"{point // every}\n")


def killed_at(folder: Path, point: int) -> bool:
    """Replace the set in a child that is killed at one of its system calls; False if it made fewer."""
    child = os.fork()
    if not child:
        count = iter(range(10**9))
        for name in CALLS:
            setattr(os, name, counted(getattr(os, name), lambda: next(count) == point))
        replace_set(folder)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def counted(call: Callable[..., Any], is_last: Callable[[], bool]) -> Callable[..., Any]:
    """Return the call, killing the process instead of the last one."""

    def replacement(*arguments: Any, **keywords: Any) -> Any:
        if is_last():
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **keywords)

    return replacement


def killed_at_random(folder: Path, seconds: float) -> None:
    child = os.fork()
    if not child:
        while True:
            replace_set(folder)
    time.sleep(seconds)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def replace_set(folder: Path) -> None:
    """Replace the set by the other of two."""
    write_tiny(folder / "v1", seed=1, replace_ids=("*",))


def check_and_mend(folder: Path, where: str) -> None:
    """Check that a whole set is there, remove what a killed writer may leave, and write the old set again."""
    there = folder / "v1" if (folder / "v1").exists() else folder / ".v1.replaced"
    try:
        check_golden(there)
    except FileError as error:
        sys.exit(f"killed at {where}: {error}")
    shutil.rmtree(folder / ".v1.partial", ignore_errors=True)  # as the refusal of the next writer asks
    write_tiny(folder / "v1", replace_ids=("*",))
    check_golden(folder / "v1")


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_tiny(root / "v1")
    main(root, *map(int, sys.argv[2:]))
