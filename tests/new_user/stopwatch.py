"""A stopwatch in a fresh clone: runs commands as a new user would, and tells how long each took."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR

ROOT = GOLDEN_DIR.parent
README = (ROOT / "README.md").read_text()
HIDDEN = ("PYTHON", "VIRTUAL_ENV", "PYTEST", "COV_", "NOX", "JAX_", "OMP_")
"""What the names of variables begin with that a new user has not set."""


@dataclass(frozen=True)
class Ran:
    """What a command printed, every line with the seconds since it was started, and how long it took."""

    lines: tuple[tuple[float, str], ...]
    seconds: float

    @property
    def words(self) -> str:
        """All that was printed."""
        return "".join(line for _, line in self.lines)

    def seconds_to(self, pattern: str) -> float:
        """Return when the first line came that a pattern matches at its beginning."""
        return next(seconds for seconds, line in self.lines if re.match(pattern, line))


class Stopwatch:
    """Runs commands in a folder with an environment of its own, and tells how long each took."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder, self.capsys = folder, capsys
        self.seconds = 0.0
        builder = folder.parent / "environment"
        began = time.monotonic()
        venv.EnvBuilder(with_pip=True).create(builder)
        self.path = os.pathsep.join((str(builder / "bin"), os.environ["PATH"]))
        self.count("python -m venv", time.monotonic() - began)

    def run(self, command: Sequence[str], status: int = 0) -> Ran:
        """Run a command, expect an exit status, and return what it printed and when."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith(HIDDEN)}
        began = time.monotonic()
        with subprocess.Popen(  # noqa: S603 - the commands of the README
            command,
            cwd=self.folder,
            env={**environment, "PATH": self.path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as process:
            lines = tuple((time.monotonic() - began, line) for line in process.stdout or ())
        ran = Ran(lines, time.monotonic() - began)
        self.count(" ".join(command), ran.seconds)
        assert process.returncode == status, ran.words
        return ran

    def count(self, what: str, seconds: float) -> None:
        """Print the seconds that a step took, and add them up."""
        self.seconds += seconds
        self.tell(what, seconds)

    def tell(self, what: str, seconds: float) -> None:
        """Print some seconds."""
        with self.capsys.disabled():
            sys.stdout.write(f"\n{seconds:7.1f} s  {what}")


def readme_command(beginning: str) -> list[str]:
    """Return the words of the README's command that begins so, without a comment."""
    (line, *_) = re.findall(rf"^(?:.*&& )?({re.escape(beginning)}[^#&\n]*)", README, re.MULTILINE)
    return str(line).split()
