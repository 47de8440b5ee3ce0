"""What the commands that end in a verdict have in common: where the golden set lies, and the options of reports."""

from __future__ import annotations

import argparse
from pathlib import Path

from grok_conformance.harness.contract.taps import GOLDEN


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add where the golden set lies and which reports to write."""
    parser.add_argument(
        "--golden", type=Path, default=GOLDEN, metavar="DIR", help="the golden set (default: golden/v1)"
    )
    parser.add_argument(
        "--waivers",
        type=Path,
        metavar="FILE",
        help="deviations that are known and accepted, in TOML: see harness/judging/waivers.py",
    )
    parser.add_argument(
        "--strict",
        action="store_true",
        help="fail a candidate that rounds elsewhere than published",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page to look at, one file")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report")
    detail = parser.add_mutually_exclusive_group()
    detail.add_argument(
        "--quiet", dest="detail", action="store_const", const="quiet", default="normal", help="one line per candidate"
    )
    detail.add_argument(
        "--verbose",
        dest="detail",
        action="store_const",
        const="verbose",
        help="every candidate at every operation, and every failure explained",
    )
