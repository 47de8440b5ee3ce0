from __future__ import annotations

import math

import pytest

from grok_conformance.harness.measure.words import times


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(0.0, "0"), (1e-9, "< 0.001"), (0.991, "0.991"), (748.2, "748"), (48123.0, "48,000"), (2e37, "> million"),
     (math.inf, "∞"), (math.nan, "∞")],
)  # fmt: skip
def test_a_ratio_is_told_without_an_exponent(ratio: float, shown: str) -> None:
    assert times(ratio) == shown
