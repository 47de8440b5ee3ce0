"""The run on a terminal: one table of operations, every failure explained, and one line per candidate."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.contract import LEVELS, QUANTISATIONS, tap_specs
from grok_conformance.harness.diagnosis.likely_fault import describe
from grok_conformance.harness.diagnosis.power import describe as describe_power
from grok_conformance.harness.judging.coverage import describe as describe_coverage
from grok_conformance.harness.judging.coverage import in_short
from grok_conformance.harness.judging.reused import ReusedVerdict
from grok_conformance.harness.judging.verdict import PASSING, UNCOUNTED, CandidateVerdict, CaseVerdict, OperationVerdict
from grok_conformance.harness.measure.words import number_of, times
from grok_conformance.harness.report.explanation import (
    explain,
    failing_operations,
    format_ratio,
    likely,
    reproduce_case,
)
from grok_conformance.harness.report.figures import LEGEND
from grok_conformance.harness.report.layout import broken, is_command
from grok_conformance.harness.report.weights import grouped

STYLES = {
    "pass": "green",
    "waived": "cyan",
    "quirk": "cyan",
    "fail": "bold red",
    "error": "bold red",
    "missing": "red",
    "unsupported": "yellow",
    "inconclusive": "yellow",
}
LOOK: Mapping[str, Any] = {"title_justify": "left", "title_style": "bold", "box": box.SIMPLE_HEAD, "pad_edge": False}

PIPE_WIDTH = 132

Detail = Literal["quiet", "normal", "verbose"]

MAX_FAILURES = 5
"""Failing operations that are explained in full, per candidate; the table and the JSON hold all."""

MAX_NAMED = 3
"""Cases that are named of those that fail for one reason."""


def wide_console(width: int = PIPE_WIDTH) -> Console:
    """Return the console of standard output; in a pipe it is wide enough for the names of cases."""
    console = Console(markup=False)
    return console if console.is_terminal else Console(markup=False, width=width)


def show(console: Console, verdicts: Sequence[CandidateVerdict], detail: Detail = "normal") -> None:
    """Print the report of a run: the table of operations, every failure explained, and last the verdicts.

    In `quiet` detail the verdicts alone; `verbose` has a row for every candidate at every operation, and explains all.
    """
    for verdict in verdicts:
        for line in grouped(verdict.weights):
            console.print(f"{verdict.name}: weights: {line}", highlight=False, markup=False, soft_wrap=True)
    if detail != "quiet":
        if any(verdict.operations for verdict in verdicts):
            console.print(operations_table(verdicts, pooled=detail == "normal"))
            console.print(LEGEND, highlight=False, soft_wrap=True)
        for verdict in verdicts:
            blocks = [
                *known_deviations(verdict),
                *rounding_plan(verdict),
                *failures(verdict, MAX_FAILURES if detail == "normal" else None),
            ]
            for block in blocks:
                print_block(console, block)
        lines = [*power_lines(verdicts), *coverage_lines(verdicts, whole=detail == "verbose"), *reused_lines(verdicts)]
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)
    for verdict in verdicts:
        console.print(verdict_line(verdict, alone=detail == "quiet"), soft_wrap=True)
        if detail != "quiet" and verdict.next_taps:
            console.print(next_level(verdict), highlight=False, soft_wrap=True)


def print_block(console: Console, block: str) -> None:
    """Print a block; in a pipe its lines stay whole, on a terminal a command may be pasted however long it is."""
    for line in block.splitlines():
        whole = is_command(line) or not console.is_terminal
        for part in broken(line, console.width) if console.is_terminal else [line]:
            console.print(part, highlight=False, markup=False, soft_wrap=whole)


def power_lines(verdicts: Sequence[CandidateVerdict]) -> list[str]:
    """Return what the run could see, one line for all candidates of which the same is true."""
    names: dict[str, list[str]] = {}
    for verdict in verdicts:
        for power in verdict.powers:
            names.setdefault(f"{verdict.level} in {describe_power(power)}", []).append(verdict.name)
    return [f"Power of {', '.join(sharing)} at {text}" for text, sharing in names.items()]


def coverage_lines(verdicts: Sequence[CandidateVerdict], *, whole: bool = False) -> list[str]:
    """Return what the run exercised, one line for all candidates of which the same is true, `whole` or in short.

    Of a run that is narrowed, or of a candidate that could not be run, it would say nothing.
    """
    names: dict[str, list[str]] = {}
    for verdict in verdicts:
        if verdict.coverage and not verdict.narrowed and verdict.status != "error":
            told = "; ".join(map(describe_coverage, verdict.coverage)) if whole else in_short(verdict.coverage)
            names.setdefault(told, []).append(verdict.name)
    return [f"Exercised in {', '.join(sharing)}: {text}" for text, sharing in names.items()]


def reused_lines(verdicts: Sequence[CandidateVerdict]) -> list[str]:
    """Return what is to be known of verdicts of earlier runs, nothing where there is none."""
    names = [verdict.name for verdict in verdicts if isinstance(verdict, ReusedVerdict)]
    return [f"Reused for {', '.join(names)}: what an earlier run drew and found; --fresh judges again"] if names else []


def operations_table(verdicts: Sequence[CandidateVerdict], *, pooled: bool = True) -> Table:
    """Return one row per operation, pooled over the candidates that pass it, and one for each that does not."""
    table = Table(title="Operations, recomputed in float64 from each candidate's own inputs", **LOOK)
    for column in ("operation", "verdict"):
        table.add_column(column, no_wrap=True)
    table.add_column("measured / allowed", justify="right", max_width=10)
    table.add_column("layers at fault", max_width=8)
    table.add_column("worst case", overflow="fold")
    several = len(verdicts) > 1
    for name in (spec.operation for spec in tap_specs()):
        rows = [(f"{v.name}: " * several, row) for v in verdicts for row in v.operations if row.operation == name]
        passed = sorted((pair for pair in rows if pair[1].status == "pass"), key=lambda pair: -pair[1].worst.ratio)
        for candidate, row in passed[:1] if pooled else passed:
            add_operation(table, candidate, row, "")
        for candidate, row in rows:
            if row.status != "pass":
                add_operation(table, candidate, row, ", ".join(map(str, row.layers_at_fault)) or "–")
    return table


def add_operation(table: Table, candidate: str, row: OperationVerdict, layers: str) -> None:
    """Add one operation's row."""
    nearest = "nearest: " if row.status == "fail" else ""
    alternative = f" ({nearest}{row.alternative})" if row.alternative else ""
    table.add_row(
        row.operation,
        Text(row.status, style=STYLES[row.status]),
        format_ratio(row.worst),
        layers,
        f"{candidate}{row.worst_case}{alternative}",
    )


def rounding_plan(verdict: CandidateVerdict) -> list[str]:
    """Return blocks that say where a candidate rounds elsewhere than published and what it declares to quantise."""
    lines: dict[tuple[str, str], list[str]] = {}
    for row in verdict.rounding_elsewhere:
        lines.setdefault((row.operation, row.alternative), []).append(row.fprop_dtype)
    plan = [f"  {operation} in {' and '.join(dtypes)}: {words}" for (operation, words), dtypes in lines.items()]
    fewer = [f"  {pattern}: {QUANTISATIONS[kind]}" for pattern, kind in verdict.quantised.items()]
    return [
        *(["\n".join([f"{verdict.name} rounds elsewhere than published:", *plan])] if plan else []),
        *(["\n".join([f"{verdict.name} was judged by the quantisations that it declares:", *fewer])] if fewer else []),
    ]


def verdict_line(verdict: CandidateVerdict, *, alone: bool = False) -> Text:
    """Return a candidate's verdict in one line: level, cases, end-to-end error, flips, repeatability, time.

    Where it stands `alone`, and no operation is at fault, with the reason of the first case that did not pass.
    """
    passed = sum(case.status in PASSING for case in verdict.cases)
    flips = [flip for case in verdict.cases for flip in case.flips]
    drift = max((d.ratio for case in verdict.cases for d in case.drifts if case.status != "quirk"), default=math.nan)
    parts = [f"{passed} of {number_of(len(verdict.cases), 'cases')}"]
    if missed := len(verdict.missed_quirks):
        quirks = "a published quirk" if missed == 1 else "published quirks"
        parts.append(f"{missed} of them {quirks} that it does not reproduce")
    if drawn := [seed for case in verdict.cases if (seed := drawn_as(case.case))]:
        parts.append(f"{len(drawn)} of them drawn by --seed {drawn[0][1]}")
    uncounted = Counter(case.status for case in verdict.cases if case.does_not_count)
    parts += [f"{count} {UNCOUNTED[status]}" for status, count in uncounted.items()]
    by_fault: dict[str, list[str]] = {}
    for operation, rows in failing_operations(verdict).items():
        by_fault.setdefault(likely(rows), []).append(operation)
    for fault, operations in by_fault.items():
        parts.append(f"{f'likely {fault}' if fault else 'wrong'} at {', '.join(operations)}")
    reasons = [case.reason for case in verdict.cases if case.status == verdict.status and not case.does_not_count]
    if alone and not by_fault and not verdict.passed and reasons and reasons[0]:
        parts.append(reasons[0])
    if not math.isnan(drift):
        parts.append(f"end to end {times(drift)} of what is allowed")
    if flips:
        parts.append(
            f"{sum(flip.excused for flip in flips)} of {number_of(len(flips), 'other choices')} of experts excused"
        )
    causes = Counter(case.cause for case in verdict.cases if case.cause)
    parts += [
        f"{number_of(count, 'cases')} {'hangs' if count == 1 else 'hang'} on {cause}" for cause, count in causes.items()
    ]
    if repeatability := repeated(verdict):
        parts.append(repeatability)
    if verdict.seconds:
        judged = f", judged in {verdict.judging_seconds:.1f} s" if verdict.judging_seconds else ""
        parts.append(f"answered in {verdict.seconds:.1f} s{judged}")
    name = " ".join(filter(None, (verdict.name, verdict.version)))
    status = (verdict.summary, STYLES[verdict.status])
    return Text.assemble(f"{name}: ", status, f"; {'; '.join(parts)}")


def repeated(verdict: CandidateVerdict) -> str:
    """Return whether the further runs gave the same bits, and how rare a race could have been missed in them."""
    told = {case.repeatable for case in verdict.cases if case.repeatable is not None}
    if not told:
        return ""
    rarest = verdict.rarest_race
    missed = "" if rarest is None else f" (a race in {rarest:.1%} of runs would have been seen)"
    return f"bitwise repeatable{missed}" if told == {True} else "not bitwise repeatable"


def next_level(verdict: CandidateVerdict) -> str:
    """Return what a candidate would have to show for the level after its own."""
    level = LEVELS[("none", *LEVELS).index(verdict.level)]
    return f"  level {verdict.level}; level {level} would add {', '.join(verdict.next_taps)}"


def failures(verdict: CandidateVerdict, most: int | None = MAX_FAILURES) -> list[str]:
    """Return the explanation of each failing operation, at most so many, and of each case that failed otherwise."""
    failing = failing_operations(verdict)
    blocks = [explain(verdict, rows) for rows in list(failing.values())[:most]]
    if blocks and (rest := list(failing)[len(blocks) :]):
        blocks.append(f"{verdict.name}: also at fault: {', '.join(rest)}")
    explained = {case for rows in failing.values() for row in rows for case in row.cases_at_fault}
    others: dict[str, list[CaseVerdict]] = {}
    for case in verdict.cases:
        excused = case.status in PASSING or case.does_not_count
        if not excused and (case.cause or case.case not in explained):
            others.setdefault(f"{case.status}: {case.reason}", []).append(case)
    for reason, cases in others.items():
        blocks.append(explain_others(verdict, reason, cases))
    return blocks


def explain_others(verdict: CandidateVerdict, reason: str, cases: Sequence[CaseVerdict]) -> str:
    """Return which cases did not pass for a reason that no operation explains, and how to see the first of them."""
    command = reproduce_case(verdict, cases[0])
    if len(cases) == 1:
        return f"{verdict.name}: {cases[0].case}: {reason}\n  reproduce {command}"
    named = ", ".join(case.case for case in cases[:MAX_NAMED])
    more = f" and {len(cases) - MAX_NAMED} more" if len(cases) > MAX_NAMED else ""
    return f"{verdict.name}: {len(cases)} cases, {reason}\n  cases     {named}{more}\n  first: {command}"


def known_deviations(verdict: CandidateVerdict) -> list[str]:
    """Return what is said of each known deviation that a candidate showed, and of each that has expired or gone."""
    blocks = []
    for waiver in verdict.waivers:
        rows = [row for row in verdict.operations if row.status == "waived" and waiver.covers(row.worst.tap)]
        if not rows:
            continue
        layers = sorted({layer for row in rows for layer in row.layers_at_fault})
        where = f" in {' and '.join(row.fprop_dtype for row in rows)}"
        where += f", layers {', '.join(map(str, layers))}" if layers else ""
        lines = [f"{verdict.name}: {waiver.tap}: known deviation{where}"]
        lines += [f"  diagnosis {describe(row.diagnosis)}" for row in rows[:1] if row.diagnosis is not None]
        lines += [f"  reason    {waiver.reason}", f"  reference {waiver.reference}, accepted until {waiver.expires}"]
        blocks.append("\n".join(lines))
    return [*blocks, *(f"{verdict.name}: {line}" for line in verdict.outdated)]
