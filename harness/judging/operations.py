"""The judge of operations: every one checked, the ways in which it is computed found, and what fails diagnosed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.checks.ways import Local, choose_ways, failing_together
from grok_conformance.harness.diagnosis.matched_filter import Diagnosis, diagnose


@dataclass(frozen=True)
class JudgedOperations:
    """What is found in the cases of one compute dtype: each with the ways it was computed in, and the local checks.

    `failing` are the operations that fail somewhere, or in what all cases have in common; `noted` others of which a
    note is made. `diagnoses` has the likely fault of both.
    """

    exhibits: tuple[Exhibit, ...]
    local: Local
    failing: frozenset[str]
    noted: frozenset[str]
    diagnoses: Mapping[str, Diagnosis]


def judge_operations(
    exhibits: Sequence[Exhibit], num_elements: int, only: Collection[str] | None = None
) -> JudgedOperations:
    """Judge the answered cases of one compute dtype operation by operation.

    Where an operation fails as the specification asks for it, its permitted ways are tried; one is chosen over all
    cases, or none if none makes every case pass. `num_elements` is the size of the whole run, which sets λ; `only`
    restricts the judge to some rows of the graph.
    """
    local: Local = {one.case.id: check_case(one, num_elements=num_elements, only=only) for one in exhibits}
    exhibits, local = choose_ways(exhibits, local, num_elements)
    found = [comparison for comparisons in local.values() for comparison in comparisons]
    failing = {one.operation for one in found if not one.passed} | failing_together(exhibits, local)
    noted = {one.operation for one in found if one.note} - failing
    blamed = failing | noted
    diagnoses = diagnose(exhibits, [local[one.case.id] for one in exhibits], blamed) if blamed else {}
    return JudgedOperations(tuple(exhibits), local, frozenset(failing), frozenset(noted), diagnoses)


def ways_in_words(exhibits: Sequence[Exhibit]) -> dict[str, str]:
    """Return by operation how it is computed in some cases, where it is not as published everywhere.

    Where that depends on the stored form of the weights, the form is named.
    """
    words: dict[str, str] = {}
    for row in exhibits[0].evidence.graph.operations if exhibits else ():
        forms: dict[str, str] = {}
        for one in exhibits:
            graph = one.evidence.graph
            if row in graph.rows_of(one.evidence.config):
                forms[graph.stored_form(row, one.preset.weights)] = one.ways.describe(row)
        alike = len(set(forms.values())) == 1
        parts = [text if alike else f"{text} ({form})" for form, text in forms.items() if text]
        text = "; ".join(dict.fromkeys(parts))
        words[row.tap] = "; ".join(dict.fromkeys(part for part in (words.get(row.tap, ""), text) if part))
    return {operation: text for operation, text in words.items() if text}
