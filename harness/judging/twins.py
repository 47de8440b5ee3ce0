"""Operations that are computed alike: what passes in a way of its own while its twin fails is no pass.

A way that is permitted may fit by chance, as partial sums once fitted a float16 accumulator. A port computes its twins
by one function, so that what holds of one holds of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.judging.verdict import OperationVerdict


def suspected(rows: Sequence[OperationVerdict], graph: ModelGraph) -> tuple[OperationVerdict, ...]:
    """Return the operations with those inconclusive that pass only in a way in which a twin fails, unexplained.

    A twin whose fault is known, or whose values are right for something else, says nothing of the others.
    """
    return tuple(suspicious(row, rows, graph) for row in rows)


def suspicious(row: OperationVerdict, rows: Sequence[OperationVerdict], graph: ModelGraph) -> OperationVerdict:
    """Return an operation, inconclusive and with the reason if it is suspicious."""
    if row.status != "pass" or not row.alternative:
        return row
    names = twins(row.operation, graph)
    for other in rows:
        told = other.diagnosis
        explained = told is not None and (told.faults or told.resembles)
        alike = other.operation in names and other.fprop_dtype == row.fprop_dtype
        if alike and other.status == "fail" and not explained and other.alternative != row.alternative:
            note = f"passes only with {row.alternative}, while {other.operation}, computed alike, fails: suspect both"
            return replace(row, status="inconclusive", worst=replace(row.worst, note=note))
    return row


def twins(operation: str, graph: ModelGraph) -> set[str]:
    """Return the taps of other rows that are made by the same function as that of a tap."""
    functions = {row.function for row in graph.operations if row.tap == operation}
    return {row.tap for row in graph.operations if row.function in functions} - {operation}
