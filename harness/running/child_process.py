"""A child process in a session of its own, held to limits, its output kept within bounds, and nothing left behind."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Literal

import grok_conformance
from grok_conformance.harness.formats.files import FileError

ROOT = Path(grok_conformance.__file__).resolve().parent.parent
PROC = Path("/proc")

POLL_SECONDS = 0.05
DISK_SECONDS = 0.5
"""How often what a child has written is counted."""

CHUNK_BYTES = 256 * 1024
MAX_PIPE_BYTES = 2**20
MAX_LOG_BYTES = 2**20
TAIL_BYTES = 4000

STAT_STATE, STAT_SESSION, STAT_RESIDENT_PAGES = 0, 3, 21
"""Places in /proc/PID/stat, counted after the name of the program."""

MARK = "GROK_CONFORMANCE_CHILD"
"""An environment variable by which a process that left its session is known as a child's all the same."""

PASSED_ON = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|LC_\w+|TZ|TMPDIR|TEMP|TMP|TERM|VIRTUAL_ENV|CONDA_\w+|XDG_CACHE_HOME"
    r"|(?:PYTHON|COVERAGE|JAX|XLA|TORCH|PYTORCH|TRITON|OMP|MKL|OPENBLAS|GOTO|BLIS|KMP|NUMBA|NUMEXPR|VECLIB|TF|ONNX|ORT|MLX"
    r"|IREE|GGML|LLAMA|CUDA|CUBLAS|CUDNN|NCCL|NVIDIA|HIP|ROCR|ROCM|HSA|DYLD|MALLOC|GLIBC|ASAN|UBSAN)\w*|LD_LIBRARY_PATH"
)
"""The environment variables that a candidate is given: those by which engines are set up, and no token of a CI."""

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "OPENBLAS_THREAD_TIMEOUT": "4"}
"""What a candidate is given unless it is set: threads that spin would take the time of what runs beside it.

Those of OpenBLAS spin for 2^26 cycles before they sleep, and for 2^4 where it is told so.
"""

KEEPER = Path(__file__).with_name("keeper.py")
"""The program that runs a command and ends with it all that it started."""

KEEPER_SECONDS = 2.0
"""How long a keeper that is to end may take, before it is killed too."""

MAX_KILLS = 100
"""So often what is left of a child is killed, a moment apart: it may start processes meanwhile."""

Broke = Literal["time", "memory", "processes", "disk"]


@dataclass(frozen=True)
class Limits:
    """What a child may take: seconds from one sign of progress to the next, resident bytes, processes, bytes of files.

    `file_bytes` limits one file, `disk_bytes` all that lies in the folder of its answers.
    The memory of all processes of its session is added up. Where there is no `/proc` only the time is limited. Once
    `stop` is set, by whoever no longer wants the answer, the child is ended. A child of more `niceness` gives way.
    """

    silent_seconds: float = 120.0
    memory_bytes: int = 8 * 2**30
    num_processes: int = 256
    file_bytes: int = 64 * 2**30
    disk_bytes: int = 64 * 2**30
    niceness: int = 0
    stop: threading.Event = field(default_factory=threading.Event, compare=False)


@dataclass(frozen=True)
class Exit:
    """How a child ended: exit status (minus the signal if one ended it) and the limit it broke, if any.

    `peak_bytes` is the most resident memory seen in samples taken every 0.05 s, 0 where there is no `/proc`.
    """

    status: int
    broke: Broke | None
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
    command: Sequence[str],
    logs: tuple[BinaryIO, BinaryIO],
    limits: Limits,
    progressed: Callable[[], bool],
    written_bytes: Callable[[], int] = lambda: 0,
) -> Exit:
    """Run a command until it ends or breaks a limit; no process that it started lives on.

    `progressed` is asked every 0.05 s, and once at the end, whether the child has got on since it was last asked;
    `written_bytes` twice a second how much it has on the disk. The logs, of stdout and stderr, take the first MiB of
    either output. Raises FileError for a command that cannot be started, CancelledError once `limits.stop` is set.
    """
    began = latest = sampled = counted = time.monotonic()
    peak_bytes = 0
    broke: Broke | None = None
    stdout, stderr = map(_Output, logs)
    mark = f"{MARK}={secrets.token_hex(16)}"
    with _spawn(command, mark, limits) as process, selectors.DefaultSelector() as selector:
        try:
            for pipe, output in ((process.stdout, stdout), (process.stderr, stderr)):
                if pipe is not None:
                    os.set_blocking(pipe.fileno(), False)
                    selector.register(pipe, selectors.EVENT_READ, output)
            while process.poll() is None and broke is None:
                _copy_output(selector, POLL_SECONDS)
                if limits.stop.is_set():
                    raise CancelledError
                now = time.monotonic()
                if now - sampled < POLL_SECONDS:
                    continue
                sampled = now
                running = [each for each in _processes() if each.session == process.pid]
                resident_bytes = sum(each.resident_bytes for each in running)
                peak_bytes = max(peak_bytes, resident_bytes)
                if progressed():
                    latest = now
                broke = _broken(limits, resident_bytes, len(running), now - latest)
                if now - counted >= DISK_SECONDS:
                    counted = now
                    broke = "disk" if written_bytes() > limits.disk_bytes else broke
        finally:
            _end(process)
            _kill_all(process.pid, mark)
            process.wait()
        for _ in range(MAX_PIPE_BYTES // CHUNK_BYTES):
            _copy_output(selector, 0)
    progressed()
    tail = stderr.tail.decode(errors="replace")
    return Exit(process.returncode, broke, time.monotonic() - began, peak_bytes, tail)


def _broken(limits: Limits, resident_bytes: int, num_processes: int, silent_seconds: float) -> Broke | None:
    """Return the limit that a child breaks, if any."""
    if resident_bytes > limits.memory_bytes:
        return "memory"
    if num_processes > limits.num_processes:
        return "processes"
    return "time" if silent_seconds > limits.silent_seconds else None


def _spawn(command: Sequence[str], mark: str, limits: Limits) -> subprocess.Popen[bytes]:
    """Start a command in a new session, able to import this package wherever it was started."""
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    name, _, value = mark.partition("=")
    given = WAITING | {key: text for key, text in os.environ.items() if PASSED_ON.fullmatch(key)}
    reading, writing = os.pipe()
    told = (os.getpid(), writing, limits.file_bytes, limits.niceness)
    keeper = (sys.executable, "-I", "-S", str(KEEPER), *map(str, told))
    try:
        process = subprocess.Popen(  # noqa: S603 - running the user's candidate is the purpose
            (*keeper, *command),
            bufsize=0,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
            pass_fds=(writing,),
            env=given | {"PYTHONPATH": path, name: value},
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        problem = pipe.read(MAX_LOG_BYTES).decode(errors="replace")
    if problem:
        process.communicate()
        raise FileError(f"{command[0]}: cannot be started: {problem}")
    for output in filter(None, (process.stdout, process.stderr)):
        with contextlib.suppress(AttributeError, OSError):  # of Linux, where there is room
            fcntl.fcntl(output, fcntl.F_SETPIPE_SZ, MAX_PIPE_BYTES)
    return process


def _copy_output(selector: selectors.BaseSelector, wait_seconds: float) -> None:
    """Copy what the child has written by now, a chunk of each output at most."""
    for key, _ in selector.select(wait_seconds):
        chunk = os.read(key.fd, CHUNK_BYTES)
        if chunk:
            key.data.keep(chunk)
        else:
            selector.unregister(key.fileobj)


@dataclass(frozen=True)
class _Process:
    """A living process of this machine."""

    pid: int
    session: int
    resident_bytes: int


def _processes() -> Iterator[_Process]:
    """Yield the living processes of this machine, none where there is no `/proc`."""
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    for pid in filter(str.isdigit, os.listdir(PROC) if PROC.is_dir() else ()):  # noqa: PTH208 - asked often: a Path costs
        with contextlib.suppress(OSError), open(f"{PROC}/{pid}/stat", "rb") as stat:  # noqa: PTH123 - likewise
            fields = stat.read().rpartition(b")")[2].split()
            if fields[STAT_STATE:] and fields[STAT_STATE] != b"Z":  # it may end meanwhile
                pages = int(fields[STAT_RESIDENT_PAGES])
                yield _Process(int(pid), int(fields[STAT_SESSION]), pages * page_bytes)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Let a keeper end all that it has started; one that a program has stopped or killed is not waited for."""
    if process.poll() is None:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(KEEPER_SECONDS)


def _kill_all(session: int, mark: str) -> None:
    """Kill a session and the processes that left it but carry its mark, until none of them is left."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(session, signal.SIGKILL)
    for _ in range(MAX_KILLS):
        left = [each.pid for each in _processes() if each.session == session or _is_marked(each.pid, mark)]
        if not left:
            return
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(POLL_SECONDS / 10)


def _is_marked(pid: int, mark: str) -> bool:
    try:
        return mark.encode() in (PROC / str(pid) / "environ").read_bytes().split(b"\0")
    except OSError:  # it ended meanwhile, or belongs to someone else
        return False
