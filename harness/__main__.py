"""The command line: `python -m grok_conformance COMMAND`; `harness.commands` lists the commands.

Exit status 0: pass; 1: a candidate does not conform, or is missing; 2: wrong usage or a broken fixture.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

from grok_conformance.harness.commands import BROKEN, COMMANDS, EXIT_STATUS, PASS
from grok_conformance.harness.formats.suggestions import unknown

DISTRIBUTION = "grok-conformance"
PROGRAM = "python -m grok_conformance"
PURPOSE = "Is a port of Grok-1 numerically right, and if not, which operation is wrong?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    options = command_line(words).parse_args(words)
    from grok_conformance.harness.formats.files import FileError  # noqa: PLC0415 - `--help` has ended by now, and needs none of it
    from grok_conformance.harness.running.registry import UnknownCandidateError  # noqa: PLC0415 - likewise

    try:
        status: int = options.execute(options)
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PASS
    except (FileError, UnknownCandidateError) as error:
        sys.stderr.write(f"{error}\n")
        return BROKEN
    return status


def command_line(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line; only the command that it names has its options."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description=PURPOSE,
        epilog=f"example:\n  {PROGRAM} run --candidate path/to/my_port.py\n\n{EXIT_STATUS}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=version() if "--version" in words[:1] else "")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    if words and not words[0].startswith("-") and words[0] not in COMMANDS:
        parser.error(unknown("command", words[0], COMMANDS))
    for name, command in COMMANDS.items():
        sub = subparsers.add_parser(
            name,
            help=command.purpose,
            description=f"{command.purpose[0].upper()}{command.purpose[1:]}.",
            epilog=f"example:\n  {PROGRAM} {name} {command.example}\n\n{EXIT_STATUS}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if words[:1] == [name]:
            module = importlib.import_module(f"grok_conformance.harness.commands.{name.replace('-', '_')}")
            module.add_options(sub)
            sub.set_defaults(execute=module.execute)
    return parser


def version() -> str:
    """Return the name and version of the installed distribution."""
    from importlib import metadata  # noqa: PLC0415 - slow to import

    return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"


if __name__ == "__main__":
    sys.exit(main())
