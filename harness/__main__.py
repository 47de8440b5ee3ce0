"""The command line: `python -m harness COMMAND`; `harness.commands` lists the commands.

Exit status 0: pass; 1: a candidate does not conform, or is missing; 2: wrong usage or a broken fixture.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from harness.commands import BROKEN, COMMANDS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(prog="python -m harness", description=__doc__.partition("\n")[0])
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        sub = subparsers.add_parser(name, help=text, description=text)
        if words[:1] == [name]:
            module = importlib.import_module(f"harness.commands.{name.replace('-', '_')}")
            module.add_options(sub)
            sub.set_defaults(execute=module.execute)
    options = parser.parse_args(words)
    from harness.files import FileError  # noqa: PLC0415 - `--help` has ended by now, and needs none of it
    from harness.registry import UnknownCandidateError  # noqa: PLC0415 - likewise

    try:
        status: int = options.execute(options)
    except (FileError, UnknownCandidateError) as error:
        sys.stderr.write(f"{error}\n")
        return BROKEN
    return status


if __name__ == "__main__":
    sys.exit(main())
