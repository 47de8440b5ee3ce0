"""`python -m grok_conformance check-golden`: verifies a golden set."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.golden.audit import check_golden


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("directory", nargs="?", type=Path, default=GOLDEN, metavar="DIR")


def execute(options: argparse.Namespace) -> int:
    """Verify a golden set."""
    check_golden(options.directory)
    sys.stdout.write(f"{options.directory}: every file, tensor and digest is as the manifest says\n")
    return PASS
