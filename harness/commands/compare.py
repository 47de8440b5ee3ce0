"""`python -m grok_conformance compare`: any two tap files, element by element."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.table import Table

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.formats.tensors import open_tensors
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report.terminal import LOOK, wide_console
from grok_conformance.harness.sessions.tap_differences import TapDifference, tap_differences


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("expected", type=Path, metavar="EXPECTED", help="a tap file (taps.safetensors)")
    parser.add_argument("observed", type=Path, metavar="OBSERVED", help="another")
    parser.add_argument(
        "--roundings",
        type=float,
        default=0.0,
        metavar="N",
        help="accept differences of up to N roundings of the narrower dtype (default 0: every value the same)",
    )


def execute(options: argparse.Namespace) -> int:
    """Show every tap that differs; exit status 1 if one does by more than is accepted."""
    found = tap_differences(open_tensors(options.expected), open_tensors(options.observed))
    beyond = [each for each in found if each.problem or each.roundings > options.roundings]
    changed = [each for each in found if each.problem or each.num_changed]
    if changed:
        wide_console().print(differences_table(changed))
    sys.stdout.write(f"{len(found) - len(changed)} of {number_of(len(found), 'taps')} with the same values")
    if beyond:
        sys.stdout.write(f"; beyond {options.roundings:g} roundings: {len(beyond)}, first {beyond[0].tap}")
    sys.stdout.write("\n")
    return NONCONFORMING if beyond or not found else PASS


def differences_table(found: list[TapDifference]) -> Table:
    """Return one row per tap that differs."""
    table = Table(title="Taps that differ, in the order of the forward pass", **LOOK)
    table.add_column("tap", no_wrap=True)
    for column in ("changed", "roundings", "largest", "relative rms"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("worst at, or what is wrong")
    for each in found:
        if each.problem:
            table.add_row(each.tap, "", "", "", "", each.problem)
            continue
        figures = (f"{x:.3g}" for x in (each.roundings, each.largest, each.relative))
        table.add_row(each.tap, f"{each.num_changed}/{each.num_elements}", *figures, str(list(each.index)))
    return table
