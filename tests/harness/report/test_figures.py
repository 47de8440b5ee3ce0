"""Figures are read back from a report, and written short."""

from __future__ import annotations

import math

import pytest

from grok_conformance.harness.report.figures import figures, short_ratio


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.994, "0.99"), (1.0, "1.00"), (12.345, "12.3"), (247000.0, "247k"), (math.inf, "∞")]
)
def test_a_ratio_is_shown_in_at_most_five_characters(ratio: float, shown: str) -> None:
    assert short_ratio(ratio) == shown


def test_what_is_told_times_is_a_figure_a_person_can_read() -> None:
    element = {"index": [0], "observed": 1.3e5, "exact": 0.0, "allowed": 1.0, "expected": 0.0}
    assert figures(element).times == "130,000"
    assert figures({**element, "allowed": 0.0}).times == "∞"


def test_where_there_is_no_figure_none_is_told() -> None:
    drawn = {"index": [0], "observed": 1.5, "exact": 1.0, "allowed": 1.0, "expected": "nan"}
    assert (figures(drawn).expected, figures(drawn).times) == ("–", "0.5")
    infinite = figures({**drawn, "observed": "nan", "allowed": "nan"})
    assert (infinite.observed, infinite.error, infinite.fence, infinite.times) == ("nan", "–", "–", "–")
