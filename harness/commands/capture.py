"""`python -m grok_conformance capture`: writes a golden set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS, capturing_large
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report.progress import progress_bar
from grok_conformance.harness.sessions import capture


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument(
        "--out", type=Path, default=GOLDEN, metavar="DIR", help="the golden set to write (default: golden/v1)"
    )
    parser.add_argument(
        "--add",
        action="store_true",
        help="run only the cases that the set lacks; the others stay as they are stored",
    )
    parser.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="GLOB",
        help="presets and cases that may change; needs --reason",
    )
    parser.add_argument("--reason", default="", metavar="TEXT", help="why they change, for CHANGELOG.md")
    capturing_large.add_options(parser)


def execute(options: argparse.Namespace) -> int:
    """Write a golden set; what may be replaced is told as a line for CHANGELOG.md."""
    if options.checkpoint is not None:
        return capturing_large.execute(options)
    if bool(options.replace) != bool(options.reason):
        raise FileError(
            "--replace needs --reason TEXT, and the other way round: a golden never changes without a reason"
        )
    groups = capture.suite_groups()
    with progress_bar(sum(len(group.cases) for group in groups)) as advance:
        manifest = capture.capture(options.out, groups, replace=options.replace, add=options.add, on_progress=advance)
    sys.stdout.write(
        f"{options.out}: {number_of(len(manifest.presets), 'presets')}, {number_of(len(manifest.cases), 'cases')}\n"
    )
    if options.reason:
        sys.stdout.write(f"for CHANGELOG.md: * {', '.join(options.replace)} replaced: {options.reason}\n")
    return PASS
