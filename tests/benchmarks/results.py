"""Tables of what was measured, printed and written into RESULTS.md beside this file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.written_block import write_block

RESULTS = Path(__file__).with_name("RESULTS.md")


def record(title: str, text: str, *, write: bool) -> None:
    """Print what was measured, and write it into RESULTS.md if told so."""
    say(text)
    if write:
        write_block(RESULTS, f"<!-- {title}: written by nox -s bench -->", f"<!-- end of {title} -->", text)


def markdown(rows: Sequence[Sequence[Any]]) -> str:
    """Return rows as a markdown table, the first one its header."""
    lines = [" | ".join(map(str, row)) for row in rows]
    return "\n".join(f"| {line} |" for line in (lines[0], " | ".join("---" for _ in rows[0]), *lines[1:]))


def say(text: str) -> None:
    """Print at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
