"""The laws of a candidate on a terminal: one row per law, and for each that is broken a small model that breaks it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grok_conformance.harness.laws.check import Result
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report.terminal import LOOK, STYLES


def show(console: Console, candidate: str, results: Sequence[Result]) -> None:
    """Print a candidate's laws."""
    console.print(laws_table(candidate, results))
    for result in results:
        if not result.passed:
            console.print(explain(candidate, result), highlight=False, markup=False, soft_wrap=True)


def laws_table(candidate: str, results: Sequence[Result]) -> Table:
    """Return one row per law: its verdict, the draws that kept it, and the worst difference."""
    table = Table(title=f"{candidate}: laws of every model, on drawn ones", **LOOK)
    for column in ("law", "verdict", "held to", "kept in", "bit for bit in"):
        table.add_column(column, no_wrap=True)
    table.add_column("measured / allowed", justify="right")
    for result in results:
        worst = result.worst
        table.add_row(
            result.law.name,
            Text(worst.status, style=STYLES[worst.status]),
            "every bit" if result.law.bitwise else "rounding",
            f"{result.held} of {number_of(result.num_draws, 'draws')}",
            str(result.bitwise),
            f"{worst.ratio:.3g}",
        )
    return table


def explain(candidate: str, result: Result) -> str:
    """Return in a few lines what breaks a law, and how to see it alone."""
    worst = result.worst
    lines = [f"{candidate}: {result.law.name}: {worst.status}: {result.law.sentence}"]
    if worst.status == "fail" and worst.ratio <= 1:
        lines.append(f"  differs   at {worst.where}, within rounding, but nothing in this law rounds")
    elif worst.status == "fail":
        lines.append(f"  differs   at {worst.where}: {worst.ratio:.3g} times what two honest runs may")
    else:
        lines.append(f"  reason    {worst.where}")
    command = (
        f"python -m grok_conformance properties --candidate {candidate} --law {result.law.name} --draw '{worst.draw}'"
    )
    lines += [f"  smallest  {worst.draw}", f"  reproduce {command}"]
    return "\n".join(lines)
