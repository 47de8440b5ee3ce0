from __future__ import annotations

import math

import pytest

from grok_conformance.harness.measure.words import number_of, times


@pytest.mark.parametrize(
    ("ratio", "shown"),
    [(0.0, "0"), (1e-9, "< 0.001"), (0.991, "0.991"), (748.2, "748"), (48123.0, "48,000"), (2e37, "> million"),
     (math.inf, "∞"), (math.nan, "∞")],
)  # fmt: skip
def test_a_ratio_is_told_without_an_exponent(ratio: float, shown: str) -> None:
    assert times(ratio) == shown


@pytest.mark.parametrize(("number", "told"), [(0, "0 cases"), (1, "1 case"), (2, "2 cases"), (1000, "1,000 cases")])
def test_what_is_counted_stands_in_the_singular_where_it_is_one(number: int, told: str) -> None:
    assert number_of(number, "cases") == told
