"""A run made again whenever a file changes, each time in a fork of one process that has all imported but the port."""

from __future__ import annotations

import atexit
import contextlib
import faulthandler
import importlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

INTERVAL_SECONDS = 0.05

ENGINES = ("torch",)
"""What takes long to import and may be forked once it is, if nothing has been computed. Others are imported anew."""

MAX_TOLD = 1000


def watch(path: Path, words: Sequence[str]) -> bool:
    """Return True at once, and again whenever the file changes, each time in a fork, which is to judge.

    Returns False when Ctrl-C has ended it. Where a fork is not safe a new process runs `python -m grok_conformance`
    with the same words.
    """
    parent = os.getpid()
    try:
        while True:
            seen = changed_at(path)
            if sys.platform != "linux":
                subprocess.run([sys.executable, "-m", "grok_conformance", *without_watch(words)], check=False)  # noqa: S603 - the command line as it was given
            elif forked():
                ends_with_parent(parent)
                return True
            sys.stdout.write(f"waiting for {path} to change (Ctrl-C ends)\n")
            sys.stdout.flush()
            while changed_at(path) in (seen, None):
                time.sleep(INTERVAL_SECONDS)
    except KeyboardInterrupt:
        return False


def forked() -> bool:
    """Return True in a fork, and False here once that has ended; the engine that it used is imported for the next."""
    importlib.import_module("grok_conformance.harness.commands.run_execution")
    reading, writing = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        os.close(reading)
        atexit.register(tell_engines, writing)
        return True
    os.close(writing)
    try:
        _, status = os.waitpid(child, 0)
    except KeyboardInterrupt:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        raise
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        sys.stderr.write(f"error: ended by signal {number}, {signal.strsignal(number)}\n")
    with os.fdopen(reading, "rb") as pipe:
        os.set_blocking(reading, False)  # a process that the port left behind may hold the other end
        for engine in (pipe.read(MAX_TOLD) or b"").decode().split():
            importlib.import_module(engine)
    return False


def tell_engines(pipe: int) -> None:
    """Write which engines this process has imported."""
    os.write(pipe, " ".join(name for name in ENGINES if name in sys.modules).encode())


def ends_with_parent(parent: int) -> None:
    """Have this fork end when the watching process does."""
    from grok_conformance.harness.running.keeper import ends_with

    ends_with(parent, signal.SIGTERM)
    faulthandler.enable()


@contextlib.contextmanager
def limited(seconds: float) -> Iterator[Callable[[str, str], None]]:
    """End this process, and tell where it was, once it takes longer than that in a block, or since the last progress.

    Yields what takes a sign of progress.
    """

    def advance(_candidate: str, _case: str) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True)

    advance("", "")
    try:
        yield advance
    finally:
        faulthandler.cancel_dump_traceback_later()


def changed_at(path: Path) -> int | None:
    """Return when a file was last written, in nanoseconds; None while an editor has it replaced."""
    try:
        return path.stat().st_mtime_ns
    except FileNotFoundError:
        return None


def without_watch(words: Sequence[str]) -> list[str]:
    """Return a command line without --watch and its file."""
    kept: list[str] = []
    skip = False
    for word in words:
        if not skip and word != "--watch" and not word.startswith("--watch="):
            kept.append(word)
        skip = word == "--watch"
    return kept
