"""A failing operation explained: where, the figures, the likely cause, what to change, and how to see it again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.contract import LOGITS
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis, describe
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict, CaseVerdict, OperationVerdict
from grok_conformance.harness.measure.comparison import Comparison, Kind
from grok_conformance.harness.measure.words import MILLION, number_of, times
from grok_conformance.harness.report.reproduction import reproduce

MAX_REMEDIES = 2
"""Faults of one class of which is told what to change."""

LEAST_BULK = 0.01
"""Times honest rounding below which the mean of all errors says nothing."""


def format_ratio(comparison: Comparison) -> str:
    """Return measured / allowed as it is shown, or in one word why there is no number."""
    if comparison.problem:
        return comparison.kind if comparison.kind is Kind.MISSING else "wrong"
    return times(comparison.ratio)


def failing_operations(verdict: CandidateVerdict) -> dict[str, list[OperationVerdict]]:
    """Return the rows that do not pass by operation, each in one or more compute dtypes, in forward order."""
    failing: dict[str, list[OperationVerdict]] = {}
    for row in verdict.operations:
        if row.status not in PASSING:
            failing.setdefault(row.operation, []).append(row)
    return failing


def explain(verdict: CandidateVerdict, rows: Sequence[OperationVerdict]) -> str:
    """Return a failing operation, in all its dtypes, in a few lines: where, the values, the fence, how to see it."""
    row = max(rows, key=lambda each: each.worst.ratio)
    worst, layers = row.worst, sorted({layer for each in rows for layer in each.layers_at_fault})
    head = f"{verdict.name}: {row.operation}: {row.status} in {' and '.join(each.fprop_dtype for each in rows)}"
    head += f", layers {', '.join(map(str, layers))}" if layers else ""
    lines = [head, f"  case      {row.worst_case}, call {worst.call}, tap {worst.tap}"]
    if worst.problem:
        lines.append(f"  problem   {worst.problem}" + (f", first at {list(worst.index)}" if worst.index else ""))
    else:
        golden = "" if math.isnan(worst.expected) else f", expected {worst.expected:.9g}"
        fence = f"{times(worst.tail)} times the fence {worst.allowed:.3g}" if worst.allowed else "where none is allowed"
        error = f"{abs(worst.observed - worst.exact):.3g}, {fence}"
        lines += [
            f"  worst at  {list(worst.index)}",
            f"  observed  {worst.observed:.9g}, exact {worst.exact:.9g}{golden}",
            f"  error     {error}",
        ]
        if worst.bulk >= LEAST_BULK:  # else the values that err are none that are rounded, such as zeros
            lines.append(
                f"  bulk      {times(worst.bulk)} times honest rounding, over {number_of(worst.num_elements, 'values')}"
            )
    if worst.note:
        lines.append(f"  note      {worst.note}")
    common = max((*worst.systematic, *row.systematic), key=lambda one: one.ratio, default=None)
    if common is not None and common.ratio > 1 and abs(common.coefficient) < MILLION:
        size = f"{common.coefficient:+.3g} ± {common.standard_error:.2g}"
        lines.append(
            f"  in common {common.name} {size}: {abs(common.score):.3g} standard errors, {common.allowed:.3g} allowed"
        )
    cure = cure_of(worst)
    if row.diagnosis is not None and (row.diagnosis.faults or row.diagnosis.resembles or not (worst.note or cure)):
        lines.append(f"  diagnosis {describe(replace(row.diagnosis, place=''))}")
    told = remedies(row.diagnosis) if row.diagnosis is not None else []
    lines += [f"  change    {remedy}" for remedy in told or [cure] * bool(cure)]
    if row.diagnosis is not None and row.diagnosis.place:
        lines.append(f"  where     {row.diagnosis.place}")
    lines += [f"  kept      {told}" for told in [function_kept(verdict, row)] if told]
    lines += [f"  follows   {told}" for told in [follows(verdict, row)] if told]
    lines.append(f"  contrast  {contrast(verdict, row)}")
    lines.append(f"  reproduce {reproduce_row(verdict, row)}")
    return "\n".join(lines)


def remedies(diagnosis: Diagnosis) -> list[str]:
    """Return what to change, one line for each fault that the data cannot tell from the others."""
    known = [ALL_FAULTS[name].remedy for name in diagnosis.faults if name in ALL_FAULTS]
    return list(dict.fromkeys(known or [diagnosis.remedy] * bool(diagnosis.remedy)))[:MAX_REMEDIES]


def cure_of(worst: Comparison) -> str:
    """Return what to change where the kind of what is wrong says it, an empty string where it does not."""
    if worst.kind is Kind.SHAPE:
        return "give the tap with these axes, or name the axes that it has in the tap map"
    if not worst.is_finite:
        return "look for an overflow, a division by 0, or a query all of whose keys are masked"
    if worst.problem and worst.operation == GROK_1.choice:
        return "take the experts with the largest probabilities, largest first, of equal ones the lowest index"
    if not worst.allowed and worst.operation in GROK_1.copies:
        return "leave slots as they were that an earlier call has filled, and store what is new as it is"
    return ""


def function_kept(verdict: CandidateVerdict, row: OperationVerdict) -> str:
    """Return that a layout differs and nothing else, an empty string where the logits tell more, or less."""
    if row.diagnosis is None or not row.diagnosis.relabels:
        return ""
    ends = [drift for case in verdict.cases if case.case in row.cases_at_fault for drift in case.drifts]
    logits = [drift.ratio for drift in ends if drift.tap == LOGITS]
    if not logits or not all(ratio <= 1 for ratio in logits):
        return ""
    return "the layout differs, the function is kept: the logits agree end to end"


def follows(verdict: CandidateVerdict, row: OperationVerdict) -> str:
    """Return which earlier operation shows the same fault, an empty string where none does."""
    faults = set(row.diagnosis.faults) if row.diagnosis is not None else set()
    for name, rows in failing_operations(verdict).items():
        if name == row.operation:
            return ""
        if any(faults & set(each.diagnosis.faults) for each in rows if each.diagnosis is not None):
            return f"from what is wrong at {name}: one change should mend both"
    return ""


def contrast(verdict: CandidateVerdict, row: OperationVerdict) -> str:
    """Return in how many of the cases that show an operation it fails, and what only those have in common."""
    shown = [case.case for case in verdict.cases if any(row.operation == c.operation for c in case.comparisons)]
    shown = [case for case in shown if case.endswith(row.fprop_dtype)]
    failing = [case for case in shown if case in row.cases_at_fault]
    told = f"{len(failing)} of {number_of(len(shown), 'cases')} in {row.fprop_dtype}"
    if len(failing) == len(shown):
        return told
    passing = [case for case in shown if case not in failing]
    for part, what in enumerate(("preset", "area")):
        values = {case.split("/")[part] for case in failing}
        if values and values.isdisjoint(case.split("/")[part] for case in passing):
            return f"{told}, exactly those with {what} {' or '.join(sorted(values))}"
    for part, what in enumerate(("preset", "area")):
        values = {case.split("/")[part] for case in failing}
        if len(values) == 1:
            return f"{told}, all with {what} {values.pop()}"
    return told


def reproduce_row(verdict: CandidateVerdict, row: OperationVerdict) -> str:
    """Return the command that shows an operation fail again: in its worst case, or over all where only they tell.

    Of a port whose failures hang on earlier requests it is that of the cases around, since alone the case may pass.
    """
    if row.worst.passed:
        return reproduce(verdict.name, f"*.{row.fprop_dtype}", row.operation)
    if any("history" in case.cause for case in verdict.cases):
        return reproduce_around(verdict, row.worst_case)
    return reproduce(verdict.name, row.worst_case, row.operation)


def reproduce_case(verdict: CandidateVerdict, case: CaseVerdict) -> str:
    """Return the command that shows a case fail again.

    One that hangs on something else needs the cases around it, with those that the run drew.
    """
    return reproduce_around(verdict, case.case) if case.cause else reproduce(verdict.name, case.case)


def reproduce_around(verdict: CandidateVerdict, case: str) -> str:
    """Return the command that asks for a case among those of its preset and dtype, with those that the run drew."""
    preset, dtype = case.partition("/")[0], case.rpartition(".")[2]
    seeds = [drawn[1] for each in (case, *(one.case for one in verdict.cases)) if (drawn := drawn_as(each)) is not None]
    return reproduce(verdict.name, f"{preset}/*.{dtype}", seed=seeds[0] if seeds else None)


def explain_case(verdict: CandidateVerdict, case: CaseVerdict) -> str:
    """Return why a case does not pass in a few lines: what its failure hangs on, what is likely, how to see it."""
    lines = [f"{case.status}: {case.reason}"]
    if (drawn := drawn_as(case.case)) is not None:
        lines.append(f"  drawn     by seed {drawn[1]}, as {case.case}")
    lines += [f"  cause     {case.cause}, which `explain {case.cause}` tells of"] * bool(case.cause)
    for operation, rows in failing_operations(verdict).items():
        at_fault = [row for row in rows if case.case in row.cases_at_fault]
        if at_fault:
            lines.append(f"  wrong at  {operation}{', likely ' * bool(likely(at_fault))}{likely(at_fault)}")
    lines.append(f"  reproduce {reproduce_case(verdict, case)}")
    return "\n".join(lines)


def likely(rows: Sequence[OperationVerdict]) -> str:
    """Return the likely faults behind the failures of an operation, an empty string where none is known."""
    return next((" or ".join(row.diagnosis.faults) for row in rows if row.diagnosis and row.diagnosis.faults), "")
