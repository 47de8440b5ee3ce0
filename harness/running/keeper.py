"""Runs a command and ends with it all that it started, however far that went; and ends it with whoever asked for it.

A program of its own, `keeper.py PARENT PIPE FILE_BYTES NICENESS COMMAND…`; it imports nothing of the harness. On Linux
orphans are handed to it, so that a process in a session of its own, without a word in its environment, is found too.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
SESSION_NICENESS = Path("/proc/self/autogroup")
STAT_PARENT = 1
"""Place in /proc/PID/stat, counted after the name of the program."""

MAX_ROUNDS = 200
ROUND_SECONDS = 0.005


def keep(parent: int, pipe: int, file_bytes: int, niceness: int, command: Sequence[str]) -> NoReturn:
    """Run a command and end as it did; why it could not be started goes through the pipe."""
    give_way(niceness)
    os.set_inheritable(pipe, False)  # noqa: FBT003 - what it takes
    tell_the_kernel(PR_SET_CHILD_SUBREAPER, 1)
    signal.signal(signal.SIGTERM, lambda *_: end())
    ends_with(parent, signal.SIGTERM)
    keeper = os.getpid()
    child = os.fork()
    if child == 0:
        for number in (signal.SIGTERM, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        ends_with(keeper, signal.SIGKILL)
        become(command, pipe, file_bytes)
    os.close(pipe)
    while (waited := os.wait())[0] != child:
        pass
    end_descendants()
    repeat(waited[1])


def give_way(niceness: int) -> None:
    """Have this process, and what it starts, computed after what is less nice.

    Where Linux has the file, it compares processes of one session only, and whole sessions by what their files say.
    """
    os.nice(niceness)
    if niceness and SESSION_NICENESS.exists():
        with contextlib.suppress(OSError):  # whoever is not root may write once in 0.1 s
            SESSION_NICENESS.write_text(str(niceness))


def tell_the_kernel(option: int, value: int) -> None:
    """Set an option of this process, where the kernel is Linux."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def ends_with(parent: int, number: int) -> None:
    """Have this process sent a signal once its parent has ended, and end at once where it has ended already."""
    tell_the_kernel(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:
        os._exit(1)


def become(command: Sequence[str], pipe: int, file_bytes: int) -> NoReturn:
    """Become a command that may write files of so many bytes."""
    with contextlib.suppress(OSError, ValueError):  # a lower limit is in force
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    try:
        os.execvp(command[0], list(command))  # noqa: S606 - without a shell, on purpose
    except OSError as error:
        os.write(pipe, (error.strerror or str(error)).encode())
    os._exit(127)


def end() -> NoReturn:
    """End with all that was started."""
    end_descendants()
    os._exit(128 + signal.SIGTERM)


def end_descendants() -> None:
    """Kill the descendants of this process until none is left, however many they start meanwhile."""
    for _ in range(MAX_ROUNDS):
        for pid in descendants(os.getpid()):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(ROUND_SECONDS)


def descendants(ancestor: int) -> list[int]:
    """Return the processes below one, none where there is no `/proc`."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            parent = int(stat.read_text(errors="replace").rpartition(")")[2].split()[STAT_PARENT])
            children.setdefault(parent, []).append(int(stat.parent.name))
    found = [ancestor]
    for pid in found:
        found += children.get(pid, [])
    return found[1:]


def repeat(status: int) -> NoReturn:
    """End as another process did: by the same signal, or with the same status."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with contextlib.suppress(OSError):  # of those that cannot be handled
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    keep(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5:])
