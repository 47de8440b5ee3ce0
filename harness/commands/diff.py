"""`python -m grok_conformance diff`: two golden sets, or two runs, operation by operation."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.suggestions import unknown
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.report.files import Report, read_report
from grok_conformance.harness.report.terminal import LOOK, wide_console
from grok_conformance.harness.sessions.differences import Move, golden_moves, report_moves

PIPE_WIDTH = 160

STYLES = {"identical": "dim", "within fences": "green", "fixed": "green"}
"""Readings that are no reason to look closer; every other one is."""


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("old", type=Path, metavar="OLD", help="a golden set, or the JSON report of a run")
    parser.add_argument("new", type=Path, metavar="NEW", help="another of the same kind")
    parser.add_argument("--candidate", metavar="NAME", help="which candidate of the reports")


def execute(options: argparse.Namespace) -> int:
    """Show how every operation moved; exit status 1 if one moved beyond its fences, or is gone."""
    if options.old.is_dir() != options.new.is_dir():
        raise FileError(f"{options.old} and {options.new}: give two golden sets, or two JSON reports")
    if options.old.is_dir():
        old, new = open_golden(options.old), open_golden(options.new)
        sys.stdout.write(f"{toolchains(old, new)}\n")
        moves, notes = golden_moves(old, new)
    else:
        reports = [read_report(path) for path in (options.old, options.new)]
        moves, notes = report_moves(*(candidate_of(each, options.candidate) for each in reports)), []
    wide_console(PIPE_WIDTH).print(moves_table(moves))
    sys.stdout.writelines(f"{move.operation} {move.dtypes}: {move.note}\n" for move in moves if move.note)
    sys.stdout.writelines(f"{note}\n" for note in notes)
    counts = {
        reading: sum(move.reading == reading for move in moves) for reading in dict.fromkeys(m.reading for m in moves)
    }
    sys.stdout.write("; ".join(f"{count} {reading}" for reading, count in counts.items()) + "\n")
    return PASS if moves and not notes and set(counts) <= {*STYLES, "new"} else NONCONFORMING


def toolchains(old: Golden, new: Golden) -> str:
    """Return in one line with what else than the old golden set the new one was made."""
    before, after = (golden.manifest.provenance.toolchain for golden in (old, new))
    names = dict.fromkeys([*before, *after])
    pairs = ((name, before.get(name, "none"), after.get(name, "none")) for name in names)
    return "; ".join(f"{name} {a} → {b}" for name, a, b in pairs if a != b) or "made with the same programs"


def candidate_of(report: Report, name: str | None) -> Report:
    """Return one candidate's row of a report: that of a name, or the only one; raises FileError."""
    rows = {row["name"]: row for row in report["candidates"]}
    if name is None and len(rows) == 1:
        return next(iter(rows.values()))
    if name not in rows:
        raise FileError(f"{unknown('candidate', name or '', rows)}: name one with --candidate")
    row: Report = rows[name]
    return row


def moves_table(moves: Sequence[Move]) -> Table:
    """Return one row per operation and compute dtype."""
    table = Table(title="Operations, old and new", **LOOK)
    for column in ("operation", "dtype", "reading"):
        table.add_column(column, no_wrap=True)
    runs = any(not math.isnan(move.old) for move in moves)
    for column in ("measured / allowed", "end-to-end error") if runs else ("moved / honest", "taps changed"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("most in", overflow="fold")
    for move in moves:
        figures = (
            (change(move.old, move.new), change(move.old_error, move.new_error))
            if runs
            else (f"{move.distance:.3g}", f"{move.num_changed}/{move.num_taps}")
        )
        reading = Text(move.reading, style=STYLES.get(move.reading, "bold red"))
        table.add_row(move.operation, move.dtypes, reading, *figures, move.where)
    return table


def change(old: float, new: float) -> str:
    """Return two figures as they are shown, nothing where neither is known."""
    return "" if math.isnan(old) and math.isnan(new) else f"{old:.3g} → {new:.3g}"
