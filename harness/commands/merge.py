"""`python -m grok_conformance merge`: the shards of a run judged as the whole that they are."""

from __future__ import annotations

import argparse
from pathlib import Path

from grok_conformance.harness.commands.conclusion import conclude
from grok_conformance.harness.commands.report_options import add_report_options
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.known_deviations import known_deviations
from grok_conformance.harness.sessions.shards import judge_shards


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "shards", type=Path, nargs="+", metavar="DIR", help="what `run --shard I/N --keep DIR` kept, all N of them"
    )
    add_report_options(parser)


def execute(options: argparse.Namespace) -> int:
    """Judge all shards together."""
    golden = open_golden(options.golden)
    waivers = known_deviations(options.waivers, golden)
    return conclude(judge_shards(golden, options.shards, waivers), golden, options, waivers=waivers)
