"""The command line: `python -m grok_conformance COMMAND`; `harness.commands` lists the commands.

Exit status 0: pass; 1: a candidate does not conform, or is missing; 2: wrong usage or a broken fixture.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import importlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import NoReturn

from grok_conformance.harness.commands import BROKEN, COMMANDS, EXIT_STATUS, PASS
from grok_conformance.harness.formats.suggestions import unknown

DISTRIBUTION = "grok-conformance"
PROGRAM = "python -m grok_conformance"
MAX_MESSAGE = 500
"""Characters of a refusal."""

PLACE = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENAMETOOLONG,
    }
)
"""What the machine refuses because of the place, however much room there is."""

AGAIN_SECONDS = 0.02
"""When an interrupt comes once more that no one could take."""

OUTPUTS = ("json", "html", "junit")
"""The options that name a file to write; each is proved writable before the work begins."""

PURPOSE = "Is a port of Grok-1 numerically right, and if not, which operation is wrong?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status; whatever the machine refuses is one line, and status 2."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    parser = command_line(words)
    options, unused = parser.parse_known_args(words)
    if unused:
        parser.error(unknown("option or argument", unused[0].partition("=")[0], known_options(parser, words[0])))
    from grok_conformance.harness.formats.files import FileError, check_writable  # noqa: PLC0415 - `--help` needs none of it
    from grok_conformance.harness.running.registry import UnknownCandidateError  # noqa: PLC0415 - likewise

    try:
        with interrupted_by_signals():
            for path in filter(None, (getattr(options, name, None) for name in OUTPUTS)):
                check_writable(path)
            status: int = options.execute(options)
            sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return PASS
    except (FileError, UnknownCandidateError) as error:
        return refused(str(error))
    except KeyboardInterrupt:
        return refused("interrupted: nothing was judged, and nothing is left running")
    except (OSError, MemoryError, RecursionError) as error:
        return refused(one_line_of(error))
    return status


@contextlib.contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Let signals that end a program end it as Ctrl-C does, so that children and temporary folders go with it.

    An interrupt that falls into a callback, from which Python lets no exception out, comes once more a moment later.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    def swallowed(what: sys.UnraisableHookArgs) -> None:
        if issubclass(what.exc_type, KeyboardInterrupt):
            threading.Timer(AGAIN_SECONDS, os.kill, (os.getpid(), signal.SIGTERM)).start()
        else:
            shown(what)

    names = (signal.SIGTERM, signal.SIGHUP)
    earlier = [signal.signal(name, interrupt) for name in names]
    shown, sys.unraisablehook = sys.unraisablehook, swallowed
    try:
        yield
    finally:
        sys.unraisablehook = shown
        for name, handler in zip(names, earlier, strict=True):
            signal.signal(name, handler)


def refused(message: str) -> int:
    """Write why a command cannot go on, on one line of at most MAX_MESSAGE characters, and return status 2."""
    line = "".join(c if c.isprintable() else "?" for c in message)
    line = line if len(line) <= MAX_MESSAGE else f"{line[: MAX_MESSAGE - 1]}…"
    sys.stderr.write(f"{line}\n")
    return BROKEN


def one_line_of(error: BaseException) -> str:
    """Return what the machine refused in one line: the file and the reason, or that memory or nesting ran out."""
    if isinstance(error, OSError):
        name = str(error.filename or "a file")
        room = "" if error.errno in PLACE else "make room, or "
        return f"{name[:300]}: {error.strerror or error}: {room}give another place"
    if isinstance(error, MemoryError):
        return "out of memory: judge fewer cases at once (--case GLOB), or on a larger machine"
    return "nested too deeply: one of the files given is no configuration, report or waiver"


def command_line(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of a command line; only the command that it names has its options."""
    parser = Parser(
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
            sub.set_defaults(execute=module.execute, words=tuple(words))
    return parser


class Parser(argparse.ArgumentParser):
    """A parser that refuses in one line."""

    def error(self, message: str) -> NoReturn:
        """Write what is wrong, and where all options stand, and exit with status 2."""
        self.exit(BROKEN, f"{self.prog}: {message} (all options: {self.prog} --help)\n")


def known_options(parser: argparse.ArgumentParser, command: str) -> list[str]:
    """Return the options of a command that a parser has."""
    (subparsers,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))  # noqa: SLF001 - argparse has no other way
    return [name for action in subparsers.choices[command]._actions for name in action.option_strings]  # noqa: SLF001 - likewise


def version() -> str:
    """Return the name and version of the installed distribution."""
    from importlib import metadata  # noqa: PLC0415 - slow to import

    return f"{DISTRIBUTION} {metadata.version(DISTRIBUTION)}"


if __name__ == "__main__":
    sys.exit(main())
