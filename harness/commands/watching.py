"""A command run again whenever a file changes, each time in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from grok_conformance.harness.commands import PASS

INTERVAL_SECONDS = 0.2


def watch(path: Path, words: Sequence[str]) -> int:
    """Run `python -m grok_conformance WORDS` at once, and again whenever the file changes; Ctrl-C ends it."""
    command = [sys.executable, "-m", "grok_conformance", *without_watch(words)]
    try:
        while True:
            seen = changed_at(path)
            subprocess.run(command, check=False)  # noqa: S603 - the command line as it was given
            sys.stdout.write(f"waiting for {path} to change (Ctrl-C ends)\n")
            sys.stdout.flush()
            while changed_at(path) in (seen, None):
                time.sleep(INTERVAL_SECONDS)
    except KeyboardInterrupt:
        return PASS


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
