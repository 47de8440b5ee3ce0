"""Runs commands over a file system that fails from a random call on: `… failing_calls FOLDER NUM_FAILURES`.

A process of its own, which `refusing_calls.c` is preloaded into; every command runs in a fork of it. Where a call
failed, the command must say so in one line and end with status 2, and what was there must be there still.
"""

from __future__ import annotations

import errno
import os
import random
import sys
from dataclasses import replace
from pathlib import Path

from grok_conformance.harness.formats.scratch import remove_tree
from tests.robustness.killed_commands import WORKS, Work, complete, fork

COMMANDS = ("run with baseline and reports", "convert", "synthesize")

ERRORS = (errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT)

MAX_CALLS = 4096


def fail_at(work: Work, folder: Path, call: int, code: int) -> int:
    """Run a command whose file calls fail from one on; check how it ended, and return its status."""
    (folder / "scratch").mkdir(exist_ok=True)

    def command(folder: Path) -> int:
        os.environ.update(FAIL_AT=str(call), FAIL_WITH=str(code))
        return work.command(folder)

    child = fork(replace(work, command=command), folder)
    _, status = os.waitpid(child, 0)
    said = (folder / "said.txt").read_text()
    ended = os.waitstatus_to_exitcode(status)
    remove_tree(folder / "scratch")
    where = f"{folder.name}, call {call}, {errno.errorcode[code]}: status {ended}: {said!a}"
    assert ended in {0, 2}, where
    if ended:
        assert said.count("\n") == 1, where
        assert len(said) <= 520, where
    work.check(folder)
    return ended


def num_calls(work: Work, folder: Path) -> int:
    """Return how many of its calls can fail: from there on it ends well."""
    low, high = 0, 1
    while fail_at(work, folder, high, errno.ENOSPC):
        low, high = high, 2 * high
        assert high < MAX_CALLS
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fail_at(work, folder, middle, errno.ENOSPC) else (low, middle)
    return high


def try_all(root: Path, num_failures: int) -> None:
    """Let random calls of every command fail."""
    chance = random.Random(2)  # noqa: S311 - places, no secrets
    for name in COMMANDS:
        work, folder = WORKS[name], root / name
        folder.mkdir(parents=True)
        work.make_ready(folder)
        complete(name, work, folder)
        last = num_calls(work, folder)
        for _ in range(num_failures):
            assert fail_at(work, folder, chance.randrange(last), chance.choice(ERRORS)) == 2
        complete(name, work, folder)
        sys.stdout.write(f"{name}: {num_failures} of {last} calls failed: status 2 and one line each\n")


if __name__ == "__main__":
    try_all(Path(sys.argv[1]), int(sys.argv[2]))
