"""`python -m grok_conformance properties`: laws of every model, checked on drawn ones without a golden."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.laws.check import NUM_DRAWS, check_properties
from grok_conformance.harness.laws.draws import Draw, drawn, parse_draw
from grok_conformance.harness.laws.laws import LAWS, Law
from grok_conformance.harness.report import laws as report
from grok_conformance.harness.report.progress import progress_bar
from grok_conformance.harness.report.terminal import wide_console
from grok_conformance.harness.running.registry import absences, default_names, find_candidate


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--candidate",
        action="append",
        metavar="NAME",
        help="built-in name, package.module, path/to/file.py or a program; repeatable (default: all built-in)",
    )
    parser.add_argument(
        "--law", action="append", choices=[law.name for law in LAWS], help="only this law; may be repeated"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--draws",
        type=positive,
        default=NUM_DRAWS,
        metavar="N",
        help=f"how many models are drawn (default: {NUM_DRAWS})",
    )
    which.add_argument("--draw", type=str, metavar="SIZES", help="only this model, as a failure names it")


def execute(options: argparse.Namespace) -> int:
    """Check the laws."""
    laws = [law for law in LAWS if options.law is None or law.name in options.law]
    draws = drawn(options.draws) if options.draw is None else (parse_draw(options.draw),)
    return check(options.candidate, laws, draws)


def positive(text: str) -> int:
    """Parse a whole number above 0."""
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)


def check(names: Sequence[str] | None, laws: Sequence[Law], draws: Sequence[Draw]) -> int:
    """Check laws on draws for some candidates, show what was found, and return the exit status.

    Without names, for those that a run judges, but for those that cannot run here.
    """
    console, passed = wide_console(), True
    candidates = [find_candidate(name) for name in dict.fromkeys(names or installed())]
    with progress_bar(len(candidates) * len(draws)) as advance:
        for candidate in candidates:
            results = check_properties(candidate, laws=laws, draws=draws, on_progress=advance)
            report.show(console, candidate.name, results)
            passed = passed and all(result.passed for result in results)
    return PASS if passed else NONCONFORMING


def installed() -> list[str]:
    """Return the candidates that a run judges unless told otherwise and whose extras are here; says who is left out."""
    names = default_names()
    absent = absences(names)
    for name, reason in absent.items():
        sys.stderr.write(f"{name}: left out: {reason}\n")
    return [name for name in names if name not in absent]
