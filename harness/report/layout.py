"""Blocks of a report laid out for a terminal: a command that is too long for a line is still one when it is pasted."""

from __future__ import annotations

import re

COMMAND = re.compile(r"( *(?:reproduce|first:) )(?!grok_conformance\.)(.+)")
"""A line that tells a command to type, and not what is called in Python."""

WORD = re.compile(r"(?:'[^']*'|\"[^\"]*\"|[^\s'\"])+")
"""One word of a shell."""

BREAK = " \\"
"""Ends a line that goes on in the next."""

INDENT = "    "
"""By how much the rest of a command stands further in than its beginning."""


def is_command(line: str) -> bool:
    """Return whether a line tells a command to type."""
    return COMMAND.fullmatch(line) is not None


def broken(line: str, width: int) -> list[str]:
    """Return a line with a command as several of at most a width that a shell reads as one; no word is parted."""
    found = COMMAND.fullmatch(line)
    if found is None or len(line) <= width:
        return [line]
    first, *words = WORD.findall(found[2])
    lines, indent = [found[1] + first], " " * len(found[1]) + INDENT
    for word in words:
        if len(f"{lines[-1]} {word}{BREAK}") <= width:
            lines[-1] += f" {word}"
        else:
            lines[-1] += BREAK
            lines.append(indent + word)
    return lines
