"""A child process in a session of its own, held to limits on time and memory, its output kept within bounds."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

from harness.files import FileError

ROOT = Path(__file__).resolve().parent.parent
PROC = Path("/proc")

POLL_SECONDS = 0.05
CHUNK_BYTES = 64 * 1024
MAX_PIPE_BYTES = 2**20
MAX_LOG_BYTES = 2**20
TAIL_BYTES = 4000

STAT_SESSION, STAT_RESIDENT_PAGES = 3, 21
"""Places in /proc/PID/stat, counted after the name of the program."""


@dataclass(frozen=True)
class Limits:
    """What a child may take: seconds from one sign of progress to the next, and resident bytes.

    The memory of all processes of its session is added up. Where there is no `/proc` it is not limited.
    """

    silent_seconds: float = 120.0
    memory_bytes: int = 8 * 2**30


@dataclass(frozen=True)
class Exit:
    """How a child ended: exit status (minus the signal if one ended it) and the limit it broke, if any.

    `peak_bytes` is the most resident memory seen in samples taken every 0.05 s, 0 where there is no `/proc`.
    """

    status: int
    broke: Literal["time", "memory"] | None
    seconds: float
    peak_bytes: int
    stderr_tail: str


@dataclass(frozen=True)
class _Output:
    """One output of the child: a log of its beginning, and its last bytes."""

    log: BinaryIO
    tail: bytearray = field(default_factory=bytearray)

    def keep(self, chunk: bytes) -> None:
        self.log.write(chunk[: max(0, MAX_LOG_BYTES - self.log.tell())])
        self.tail.extend(chunk)
        del self.tail[:-TAIL_BYTES]


def run_child(
    command: Sequence[str], stdout_log: BinaryIO, stderr_log: BinaryIO, limits: Limits, progressed: Callable[[], bool]
) -> Exit:
    """Run a command until it ends or breaks a limit; no process of its session lives on.

    `progressed` is asked every 0.05 s, and once at the end, whether the child has got on since it was last asked. The
    logs take the first MiB of either output. Raises FileError for a command that cannot be started.
    """
    began = latest = sampled = time.monotonic()
    peak_bytes = 0
    broke: Literal["time", "memory"] | None = None
    stderr = _Output(stderr_log)
    with _spawn(command) as process, selectors.DefaultSelector() as selector:
        try:
            for pipe, output in ((process.stdout, _Output(stdout_log)), (process.stderr, stderr)):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ, output)
            while process.poll() is None and broke is None:
                _copy_output(selector, POLL_SECONDS)
                now = time.monotonic()
                if now - sampled < POLL_SECONDS:
                    continue
                sampled = now
                resident_bytes = sum(_session_memory(process.pid).values())
                peak_bytes = max(peak_bytes, resident_bytes)
                if progressed():
                    latest = now
                if resident_bytes > limits.memory_bytes:
                    broke = "memory"
                elif now - latest > limits.silent_seconds:
                    broke = "time"
        finally:
            _kill_session(process.pid)
            process.wait()
        for _ in range(MAX_PIPE_BYTES // CHUNK_BYTES):
            _copy_output(selector, 0)
    progressed()
    tail = stderr.tail.decode(errors="replace")
    return Exit(process.returncode, broke, time.monotonic() - began, peak_bytes, tail)


def _spawn(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start a command in a new session, able to import this package wherever it was started."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        return subprocess.Popen(  # noqa: S603 - running the user's candidate is the purpose
            command,
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            env=os.environ | {"PYTHONPATH": path},
        )
    except OSError as error:
        raise FileError(f"{command[0]}: cannot be started: {error.strerror}") from None


def _copy_output(selector: selectors.BaseSelector, wait_seconds: float) -> None:
    """Copy what the child has written by now, a chunk of each output at most."""
    for key, _ in selector.select(wait_seconds):
        chunk = os.read(key.fd, CHUNK_BYTES)
        if chunk:
            key.data.keep(chunk)
        else:
            selector.unregister(key.fileobj)


def _session_memory(session: int) -> dict[int, int]:
    """Return the resident bytes of every process of a session, by process id."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    memory: dict[int, int] = {}
    for stat in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            if int(fields[STAT_SESSION]) == session:
                memory[int(stat.parent.name)] = int(fields[STAT_RESIDENT_PAGES]) * page_bytes
    return memory


def _kill_session(session: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for process in _session_memory(session):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(process, signal.SIGKILL)
