"""A name holds in every compute dtype and at every operation that a fault touches, or it is taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import ALL_FAULTS, Fault

Diagnoses = Mapping[str, Mapping[str, Diagnosis]]
"""The diagnoses of a candidate, by compute dtype and operation."""


def agreed(
    diagnoses: Diagnoses, right: Collection[str] = (), faults: Mapping[str, Fault] = ALL_FAULTS
) -> dict[str, dict[str, Diagnosis]]:
    """Return the diagnoses without the names that are contradicted elsewhere.

    A fault is contradicted where it is the likeliest of all and still does not explain what fails: at an operation that
    it touches, in any compute dtype. Where it would explain it and hardly shows, it is named if it is named elsewhere.
    What is named by a class of faults keeps the rest of the class. Of a class, those
    that touch an operation which is `right` give way to those that touch none.
    """
    every = [pair for by_operation in diagnoses.values() for pair in by_operation.items()]
    named = {name for _, found in every for name in found.faults}
    contradicted = {
        (operation, found.likeliest)
        for operation, found in every
        if not found.faults and found.likeliest and not found.is_faint
    }

    def holds(name: str) -> bool:
        touched = faults[name].operations if name in faults else ()
        return not any((operation, name) in contradicted for operation in touched)

    def fitting(names: tuple[str, ...]) -> tuple[str, ...]:
        held = tuple(name for name in names if holds(name))
        return tuple(name for name in held if not set(faults[name].operations) & set(right)) or held

    def names_of(found: Diagnosis) -> tuple[str, ...]:
        return (found.likeliest,) if found.is_faint and found.likeliest in named else found.faults

    return {
        dtype: {operation: replace(found, faults=fitting(names_of(found))) for operation, found in by_operation.items()}
        for dtype, by_operation in diagnoses.items()
    }
