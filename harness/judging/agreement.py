"""What the judges of the compute dtypes tell each other, and the names that then hold in all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from grok_conformance.harness.diagnosis.agreement import agreed
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.judging.operations import JudgedOperations


@dataclass(frozen=True)
class Told:
    """What the judge of one compute dtype tells those of the others: its diagnoses, and what is shown and wrong."""

    diagnoses: Mapping[str, Diagnosis]
    shown: frozenset[str]
    wrong: frozenset[str]


Agree = Callable[[Mapping[str, Told]], Mapping[str, Mapping[str, Diagnosis]]]
"""What makes the judges of the compute dtypes agree: it returns the diagnoses that hold, by dtype."""


def in_agreement(told: Mapping[str, Told]) -> dict[str, dict[str, Diagnosis]]:
    """Return the diagnoses by compute dtype without the names that another operation or dtype contradicts."""
    shown = frozenset[str]().union(*(each.shown for each in told.values()))
    right = shown.difference(*(each.wrong for each in told.values()))
    return agreed({dtype: each.diagnoses for dtype, each in told.items()}, right)


def with_agreement(judged: Mapping[str, JudgedOperations], agree: Agree) -> dict[str, JudgedOperations]:
    """Return what was found by compute dtype, with the diagnoses that hold in all of them."""
    held = agree({dtype: told_of(found) for dtype, found in judged.items()})
    return {dtype: replace(found, diagnoses=held[dtype]) for dtype, found in judged.items()}


def told_of(found: JudgedOperations) -> Told:
    """Return what is told of the operations of one compute dtype."""
    shown = frozenset(comparison.operation for each in found.local.values() for comparison in each)
    return Told(found.diagnoses, shown, found.failing | found.noted)
