"""A diagnosis with what is said of an operation whatever its fault: where in the data, and what the values resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.likeness import likeness_of
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED, telling
from grok_conformance.harness.diagnosis.places import place_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, shown_taps
from grok_conformance.harness.measure.comparison import Comparison


def described(
    found: Diagnosis | None,
    operation: str,
    exhibits: Sequence[Exhibit],
    comparisons: Sequence[Sequence[Comparison]],
) -> Diagnosis | None:
    """Return a diagnosis with where an operation fails and what its failing values resemble.

    `comparisons` are the local checks of each exhibit. Where nothing can be said what was found comes back as it is.
    """
    told = described_by(found or UNEXPLAINED, shown_taps(operation, telling(exhibits, comparisons, {operation})))
    return None if found is None and told == UNEXPLAINED else told


def described_by(found: Diagnosis, taps: Sequence[ShownTap]) -> Diagnosis:
    """Return a diagnosis with where some taps of one operation fail, and what their failing values resemble."""
    place, likeness = place_of(taps).words, likeness_of(taps)
    return replace(found, place=place, resembles=likeness.words, remedy=likeness.remedy, relabels=likeness.relabels)
