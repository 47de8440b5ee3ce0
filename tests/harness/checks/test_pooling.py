"""What one operation errs in common is pooled over what measures something new."""

from __future__ import annotations

import math

import pytest

from grok_conformance.harness.checks.pooling import pooled_systematic
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic


def leaning(score: float, tap: str, num_elements: int) -> Comparison:
    return Comparison(0, tap, num_elements, systematic=(Systematic("gain", score, 1.0, 0.0, 1.0, 7.0),))


@pytest.mark.parametrize(
    ("tap", "counted"),
    [
        ("embedding", 2),
        ("layers.00.attention.norm", 2),
        ("layers.00.attention.value", 2),
        ("layers.00.attention.output", 3),
        ("layers.01.attention.norm", 3),
        ("final_norm", 3),
    ],
)
def test_values_of_the_token_alone_count_once_per_preset_and_the_largest_comparison_stands_for_them(
    tap: str, counted: int
) -> None:
    found = [
        ("small/prefill/a", leaning(0.7, tap, 100)),
        ("small/prefill/b", leaning(1.4, tap, 900)),
        ("large/prefill/a", leaning(1.4, tap, 500)),
    ]
    (gain,) = pooled_systematic(found)
    assert gain.information == counted
    if counted == 2:
        assert gain.ratio == pytest.approx(0.2 * math.sqrt(2))


def test_two_calls_of_one_case_count_as_two() -> None:
    calls = [Comparison(call, "logits", 9, systematic=leaning(1.0, "logits", 9).systematic) for call in (0, 1)]
    (gain,) = pooled_systematic([("small/prefill/a", each) for each in calls])
    assert gain.information == 2


def test_comparisons_of_equal_size_are_represented_by_the_first() -> None:
    first, second = leaning(0.7, "embedding", 100), leaning(1.4, "embedding", 100)
    (gain,) = pooled_systematic([("small/a", first), ("small/b", second)])
    assert gain.coefficient == 0.7
