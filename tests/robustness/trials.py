"""A trial: one corrupted file, one command, and what it came to."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.commands import BROKEN

Main = Callable[[Sequence[str]], int]


@dataclass(frozen=True)
class Outcome:
    """The exit status of a command, and what it said on stderr."""

    status: int
    said: str

    @property
    def refused(self) -> bool:
        """Whether it ended as documented: status 2 and one printable line."""
        line = self.said.removesuffix("\n")
        return self.status == BROKEN and line.isprintable() and len(line) > 0


def outcome(main: Main, arguments: Sequence[str]) -> Outcome:
    """Run a command in this process; anything but an exit status is raised, as a user would see a traceback."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        status = main(arguments)
    return Outcome(status, said.getvalue())


@contextlib.contextmanager
def replaced(path: Path, data: bytes) -> Iterator[None]:
    """Put other bytes into a file, and its own back afterwards."""
    own = path.read_bytes()
    path.write_bytes(data)
    try:
        yield
    finally:
        path.write_bytes(own)


def everything(folder: Path) -> dict[str, bytes]:
    """Return the bytes of every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
