"""A diagnosis with what is said of an operation whatever its fault: where in the data, and what the values resemble."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.diagnosis.likeness import likeness_of
from grok_conformance.harness.diagnosis.matched_filter import UNEXPLAINED, Diagnosis, telling
from grok_conformance.harness.diagnosis.places import place_of
from grok_conformance.harness.diagnosis.shown_tap import shown_taps
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
    taps = shown_taps(operation, telling(exhibits, comparisons))
    place = place_of(taps).words
    likeness = likeness_of(taps)
    if found is None and not (place or likeness.words):
        return None
    return replace(
        found or UNEXPLAINED, place=place, resembles=likeness.words, remedy=likeness.remedy, relabels=likeness.relabels
    )
