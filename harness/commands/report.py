"""`python -m grok_conformance report`: a page made from the JSON report of a run."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.report.files import read_report
from grok_conformance.harness.report.html import write_html


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("report", type=Path, metavar="JSON", help="what `run --json` wrote")
    parser.add_argument("--html", type=Path, required=True, metavar="FILE", help="the page to write")


def execute(options: argparse.Namespace) -> int:
    """Write the page of a run."""
    write_html(options.html, read_report(options.report))
    sys.stdout.write(f"{options.html}: {options.html.stat().st_size // 1000} kB, one file\n")
    return PASS
