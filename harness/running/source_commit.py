"""The commit that a port was judged at: a report without it cannot be traced to what was run."""

from __future__ import annotations

import subprocess
from pathlib import Path

SECONDS = 10
"""How long git may take to answer."""


def source_commit(path: Path) -> str:
    """Return the commit of the repository that tracks a file, with `-dirty` where anything tracked in it was changed.

    It is an empty string for a file that no repository tracks, and where there is no git.
    """
    if not answer_of_git(path.parent, "ls-files", "--", path.name):
        return ""
    return answer_of_git(path.parent, "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")


def answer_of_git(folder: Path, *words: str) -> str:
    """Return what git says in a folder, an empty string where it refuses or is not there."""
    command = ("git", "-C", str(folder), "--no-optional-locks", *words)
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)  # noqa: S603 - fixed
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return ran.stdout.strip() if ran.returncode == 0 else ""
