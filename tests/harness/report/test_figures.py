"""Figures are read back from a report, and written short."""

from __future__ import annotations

import math

import pytest

from grok_conformance.harness.report.figures import short_ratio


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.994, "0.99"), (1.0, "1.00"), (12.345, "12.3"), (247000.0, "247k"), (math.inf, "∞")]
)
def test_a_ratio_is_shown_in_at_most_five_characters(ratio: float, shown: str) -> None:
    assert short_ratio(ratio) == shown
