"""Arithmetic in fewer digits is as coarse as it says, and no coarser."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.faults import narrow_arithmetic
from grok_conformance.harness.graph.row import Multiply

RANDOM = np.random.default_rng(0)
X, W = RANDOM.standard_normal((5, 64)), RANDOM.standard_normal((64, 7))
EXACT = X @ W


def relative_error(multiply: Multiply) -> float:
    return float(np.linalg.norm(multiply(X, W) - EXACT) / np.linalg.norm(EXACT))


@pytest.mark.parametrize(
    ("multiply", "least", "most"),
    [
        (narrow_arithmetic.of_activations(narrow_arithmetic.int8_per_token), 1e-3, 2e-2),
        (narrow_arithmetic.of_activations(narrow_arithmetic.int8_in_blocks), 1e-3, 2e-2),
        (narrow_arithmetic.of_activations(narrow_arithmetic.fp8_per_token), 5e-3, 5e-2),
        (narrow_arithmetic.of_requantised, 1e-3, 2e-2),
        (narrow_arithmetic.in_tf32, 1e-5, 1e-3),
        (narrow_arithmetic.in_three_bf16_products, 1e-7, 1e-4),
        (narrow_arithmetic.accumulated(8, 16), 1e-4, 1e-2),
        (narrow_arithmetic.accumulated(14, 16), 1e-6, 2e-4),
        (narrow_arithmetic.parts_in_fp8(4), 1e-3, 5e-2),
        (narrow_arithmetic.cut_off, 1e-4, 1e-2),
    ],
    ids=range(10),
)
def test_a_product_errs_by_as_much_as_its_digits_leave_open(multiply: Multiply, least: float, most: float) -> None:
    assert least < relative_error(multiply) < most


def test_a_sum_rounded_more_often_errs_more() -> None:
    every = [relative_error(narrow_arithmetic.accumulated(8, n)) for n in (1, 8, 64)]
    assert every == sorted(every, reverse=True)


def test_rounding_to_bits_keeps_what_fits() -> None:
    assert narrow_arithmetic.round_to_bits(np.array([1.5, -0.375, 0.0]), 2).tolist() == [1.5, -0.375, 0.0]
    assert narrow_arithmetic.round_to_bits(np.array([1.25, 1.75]), 2).tolist() == [1.0, 2.0]  # ties to even


def test_cutting_off_goes_towards_zero() -> None:
    assert (np.abs(narrow_arithmetic.cut_off(X, W)) <= np.abs(EXACT)).all()


def test_an_exponential_by_bits_is_within_some_percent() -> None:
    x = np.linspace(-20, 0, 100)
    ratio = narrow_arithmetic.exponential_by_bits(x) / np.exp(x)
    assert 0.005 < np.abs(ratio - 1).max() < 0.065


def test_a_sum_of_one_block_is_not_accumulated_at_all() -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((3, 32)), random.standard_normal((32, 5))
    np.testing.assert_array_equal(narrow_arithmetic.accumulated(8, 32)(x, w), x @ w)
    assert (narrow_arithmetic.accumulated(8, 16)(x, w) != x @ w).all()
