"""`python -m grok_conformance judge`: the full verdict on answers that were written elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from grok_conformance.harness.commands.conclusion import conclude
from grok_conformance.harness.commands.report_options import add_report_options
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.known_deviations import known_deviations
from grok_conformance.harness.sessions import run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("job", type=Path, metavar="JOB", help="a job folder, or a folder of several")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of its answers, or one of as many")
    add_report_options(parser)


def execute(options: argparse.Namespace) -> int:
    """Judge answers written elsewhere."""
    golden = open_golden(options.golden)
    waivers = known_deviations(options.waivers, golden)
    return conclude([run.judge_folder(golden, options.job, options.out, waivers)], golden, options, waivers=waivers)
