"""`python -m grok_conformance run`: the main job."""

from __future__ import annotations

import argparse
from pathlib import Path

from grok_conformance.harness.commands import PASS, seed
from grok_conformance.harness.commands.narrow_options import add_narrow_options, refuse_together
from grok_conformance.harness.commands.report_options import add_report_options
from grok_conformance.harness.commands.reuse_options import add_reuse_options, refuse_with_reuse
from grok_conformance.harness.contract.taps import LEVELS
from grok_conformance.harness.judging.shard import Shard
from grok_conformance.harness.running import SERVED
from grok_conformance.harness.running.child_process import Limits

MAX_SECONDS = 1e6
"""The longest that a candidate may be waited for, eleven days."""


def seconds(text: str) -> float:
    """Return a limit of time as given; raises ArgumentTypeError unless it is above 0 and at most MAX_SECONDS."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= MAX_SECONDS:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0 and at most {MAX_SECONDS:,.0f}")
    return value


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--candidate",
        action="append",
        metavar="NAME",
        help="built-in name, package.module, path/to/file.py or a program; repeatable (default: all built-in)",
    )
    parser.add_argument(
        "--endpoint",
        metavar="URL",
        help="judge a running server with a completions API, which holds the preset asked for",
    )
    parser.add_argument("--model", default=SERVED, metavar="NAME", help="the model to ask of the endpoint")
    parser.add_argument(
        "--top-logprobs", type=int, default=10**6, metavar="N", help="log probabilities it gives (default: all)"
    )
    parser.add_argument(
        "--require",
        action="append",
        default=[],
        type=required_level,
        metavar="NAME:LEVEL",
        help=f"fail unless NAME passes at LEVEL ({', '.join(LEVELS)}) or above, or reproduces the published quirks",
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=Limits.silent_seconds,
        metavar="SECONDS",
        help="time for one case, loading included",
    )
    parser.add_argument(
        "--properties",
        action="store_true",
        help="check the laws of every model on drawn ones, not the golden cases; goes with --candidate alone",
    )
    parser.add_argument(
        "--seed",
        type=seed,
        metavar="N",
        help="draw what an earlier run drew (default: something else)",
    )
    parser.add_argument(
        "--ladder",
        action="store_true",
        help="judge drawn models with one size at a border of tiles and blocks, not the golden cases",
    )
    parser.add_argument("--shard", type=shard, metavar="I/N", help="run a share of the jobs; `merge` judges all N")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="keep job and answer folders in a new folder")
    parser.add_argument(
        "--baseline", type=Path, metavar="DIR", help="compare with each candidate's earlier run, kept in this folder"
    )
    parser.add_argument("--update-baseline", action="store_true", help="make this run the baseline, after comparing")
    add_reuse_options(parser)
    add_narrow_options(parser)
    add_report_options(parser)


def shard(text: str) -> Shard:
    """Parse I/N; raises ArgumentTypeError unless 1 <= I <= N."""
    number, _, count = text.partition("/")
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N, such as 1/3, with I from 1 to N")
    return Shard(int(number), int(count))


def required_level(text: str) -> tuple[str, str]:
    """Parse NAME:LEVEL, or NAME:quirks."""
    name, _, level = text.rpartition(":")
    if not name or level not in (*LEVELS, "quirks"):
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:LEVEL with a level of {', '.join(LEVELS)}, or quirks")
    return name, level


def execute(options: argparse.Namespace) -> int:
    """Judge candidates over the golden cases, or by the laws of every model."""
    refuse_with_reuse(options)
    if options.watch is not None:
        from grok_conformance.harness.commands.watching import watch

        refuse_together(options)
        if not watch(options.watch, options.words):
            return PASS
    from grok_conformance.harness.commands.run_execution import judge_candidates

    return judge_candidates(options)
