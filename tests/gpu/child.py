"""One step as a child process: its output in a file, ended when its time is over, with all that it started."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

GRACE_SECONDS = 5.0
"""What a child that is told to end may take to remove what it has put aside."""


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit status, None where it was ended because its time was over; and how long it took."""

    exit_code: int | None
    seconds: float


def run(command: Sequence[str], output: Path, seconds: float, environ: Mapping[str, str]) -> Ended:
    """Run a command in a session of its own for so many seconds at most."""
    began = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - a step of this repository
            list(command), stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
            env=dict(environ), start_new_session=True,
        )  # fmt: skip
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end(process)
    return Ended(code, time.monotonic() - began)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and its group: asked first, so that it ends what it started elsewhere, then killed."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
