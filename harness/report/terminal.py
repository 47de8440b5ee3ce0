"""The run on a terminal: one table of operations, one line per candidate, and every failure explained."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.cases import tap_key
from harness.compare import Comparison
from harness.contract import Array, tap_specs
from harness.store import Golden, read_taps
from harness.verdict import CandidateVerdict, CaseVerdict, OperationVerdict

STYLES = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "missing": "red",
    "unsupported": "yellow",
    "inconclusive": "yellow",
}
LOOK: Mapping[str, Any] = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD, "pad_edge": False}

PIPE_WIDTH = 110

MAX_FAILURES = 5
"""Failing operations that are explained in full, per candidate; the table and the JSON hold all."""


def wide_console() -> Console:
    """Return the console of standard output; in a pipe it is wide enough for the names of cases."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=PIPE_WIDTH)


def show(console: Console, verdicts: Sequence[CandidateVerdict], golden: Golden) -> None:
    """Print the whole report of a run."""
    console.print(operations_table(verdicts))
    console.print(candidates_table(verdicts))
    for verdict in verdicts:
        for block in failures(verdict, golden):
            console.print(block, highlight=False, markup=False)


def operations_table(verdicts: Sequence[CandidateVerdict]) -> Table:
    """Return one row per operation: pooled over all candidates that pass it, and one for each that does not."""
    table = Table(title="Operations, recomputed in float64 from each candidate's own inputs", **LOOK)
    for column in ("operation", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("measured / allowed", justify="right", max_width=10)
    table.add_column("layers at fault", max_width=8)
    table.add_column("worst case", overflow="fold")
    for name in (spec.operation for spec in tap_specs()):
        rows = [(v.name, row) for v in verdicts for row in v.operations if row.operation == name]
        passed = [pair for pair in rows if pair[1].status == "pass"]
        if passed:
            candidate, worst = max(passed, key=lambda pair: pair[1].worst.ratio)
            add_operation(table, candidate, worst, "")
        for candidate, row in rows:
            if row.status != "pass":
                add_operation(table, candidate, row, ", ".join(map(str, row.layers_at_fault)) or "–")
    return table


def add_operation(table: Table, candidate: str, row: OperationVerdict, layers: str) -> None:
    """Add one operation's row."""
    alternative = f" ({row.alternative})" if row.alternative else ""
    table.add_row(
        row.operation,
        Text(row.status, style=STYLES[row.status]),
        format_ratio(row.worst),
        layers,
        f"{candidate}: {row.worst_case}{alternative}",
    )


def format_ratio(comparison: Comparison) -> str:
    """Return measured / allowed as it is shown, or in one word why there is no number."""
    if comparison.problem:
        return comparison.problem.partition(":")[0] if comparison.problem.startswith("missing") else "wrong"
    return f"{comparison.ratio:.3g}"


def candidates_table(verdicts: Sequence[CandidateVerdict]) -> Table:
    """Return one row per candidate: verdict, level, cases, worst operation, repeatability, excused flips, time."""
    table = Table(title="Candidates", **LOOK)
    for column in ("candidate", "verdict", "cases", "end to end", "excused flips", "repeat", "seconds"):
        table.add_column(column, overflow="fold", no_wrap=column == "verdict")
    for verdict in verdicts:
        passed = sum(case.status == "pass" for case in verdict.cases)
        drift = max((d.ratio for case in verdict.cases for d in case.drifts), default=math.nan)
        flips = [flip for case in verdict.cases for flip in case.flips]
        repeated = {case.repeatable for case in verdict.cases if case.repeatable is not None}
        table.add_row(
            verdict.name,
            Text(status_of(verdict), style=STYLES[verdict.status]),
            f"{passed}/{len(verdict.cases)}",
            "–" if math.isnan(drift) else f"{drift:.2g}",
            f"{sum(flip.excused for flip in flips)}/{len(flips)}",
            "unknown" if not repeated else "bitwise" if repeated == {True} else "no",
            f"{verdict.seconds:.1f}",
        )
    return table


def status_of(verdict: CandidateVerdict) -> str:
    """Return a candidate's status; a pass always names its level."""
    return f"pass ({verdict.level})" if verdict.passed else verdict.status


def failures(verdict: CandidateVerdict, golden: Golden) -> list[str]:
    """Return the explanation of each failing operation, and of each case that failed otherwise."""
    failing = [row for row in verdict.operations if row.status != "pass"]
    blocks = [explain(verdict, row, golden) for row in failing[:MAX_FAILURES]]
    if failing[MAX_FAILURES:]:
        names = ", ".join(dict.fromkeys(row.operation for row in failing[MAX_FAILURES:]))
        blocks.append(f"{verdict.name}: also at fault: {names}")
    explained = {case for row in failing for case in row.cases_at_fault}
    others: dict[str, list[CaseVerdict]] = {}
    for case in verdict.cases:
        if case.status != "pass" and case.case not in explained:
            others.setdefault(f"{case.status}: {case.reason}", []).append(case)
    for reason, cases in others.items():
        blocks.append(
            f"{verdict.name}: {len(cases)} cases, {reason}\n  first: {reproduce(verdict.name, cases[0].case)}"
        )
    return blocks


def explain(verdict: CandidateVerdict, row: OperationVerdict, golden: Golden) -> str:
    """Return a failing operation in a few lines: where, the three values, the fence, and how to see just this."""
    worst, layers = row.worst, ", ".join(map(str, row.layers_at_fault))
    head = f"{verdict.name}: {row.operation}: {row.status} in {row.fprop_dtype}"
    head += f", layers {layers}" if layers else ""
    lines = [head, f"  case      {row.worst_case}, call {worst.call}, tap {worst.tap}"]
    if worst.problem:
        lines.append(f"  problem   {worst.problem}" + (f", first at {list(worst.index)}" if worst.index else ""))
    else:
        expected = golden_value(golden, row.worst_case, worst)
        lines += [
            f"  worst at  {list(worst.index)}",
            f"  observed  {worst.observed:.9g}, exact {worst.exact:.9g}, expected {expected:.9g}",
            f"  error     {abs(worst.observed - worst.exact):.3g}, fence {worst.allowed:.3g}: {worst.tail:.3g} times",
            f"  bulk      {worst.bulk:.3g} times honest rounding, over {worst.num_elements} values",
        ]
    lines.append(f"  reproduce {reproduce(verdict.name, row.worst_case)}")
    return "\n".join(lines)


def golden_value(golden: Golden, case: str, comparison: Comparison) -> float:
    """Return the golden value at the worst element of a comparison."""
    taps: Mapping[str, Array] = read_taps(golden, case)
    return float(taps[tap_key(comparison.call, comparison.tap)][comparison.index])


def reproduce(candidate: str, case: str) -> str:
    """Return the command that judges one candidate in one case."""
    return f"nox -s conformance -- --candidate {candidate} --case '{case}'"
