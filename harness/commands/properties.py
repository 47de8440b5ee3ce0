"""`python -m grok_conformance properties`: laws of every model, checked on drawn ones, and drawn histories of calls."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from grok_conformance.harness.commands import NONCONFORMING, PASS, seed
from grok_conformance.harness.formats.files import FileError
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
    parser.add_argument(
        "--histories",
        type=positive,
        metavar="N",
        help="draw so many histories of requests, chunks, steps and cuts instead, and hold every call to the oracle",
    )
    parser.add_argument("--seed", type=seed, default=0, metavar="N", help="which histories (default: 0)")
    which.add_argument("--draw", type=str, metavar="SIZES", help="only this model, as a failure names it")


def execute(options: argparse.Namespace) -> int:
    """Check the laws, or draw histories."""
    if options.histories is not None:
        return check_drawn(options.candidate, options.histories, options.seed)
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


def check_drawn(names: Sequence[str] | None, num_histories: int, seed: int) -> int:
    """Draw histories of calls for some candidates, show the smallest that fails, and return the exit status."""
    try:
        from grok_conformance.harness.laws.histories import check_histories
    except ModuleNotFoundError as error:
        raise FileError(f"--histories needs {error.name}, which is not installed: pip install {error.name}") from None
    passed = True
    for candidate in [find_candidate(name) for name in dict.fromkeys(names or installed())]:
        wrong, tally = check_histories(candidate, num_histories, seed)
        passed = passed and not wrong and tally.num_calls > 0
        told = f"fail: {wrong}" if wrong else f"{tally.num_calls} calls in {tally.num_histories} histories are right"
        declined = "".join(f"; it declines: {reason}" for reason in sorted(tally.declined))
        sys.stdout.write(f"{candidate.name}: {told}{declined}\n")
        if wrong:
            sys.stdout.write(
                f"  reproduce  python -m grok_conformance properties --candidate {candidate.name} "
                f"--histories {num_histories} --seed {seed}\n"
            )
    return PASS if passed else NONCONFORMING


def installed() -> list[str]:
    """Return the candidates that a run judges unless told otherwise and whose extras are here; says who is left out."""
    names = default_names()
    absent = absences(names)
    for name, reason in absent.items():
        sys.stderr.write(f"{name}: left out: {reason}\n")
    return [name for name in names if name not in absent]
