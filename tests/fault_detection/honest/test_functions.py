"""Approximated functions err as their documentation says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from tests.fault_detection.honest.approximations import (
    exp2_cubic,
    exp_by_bits,
    exp_polynomial,
    gelu_complement,
    gelu_rational,
    inverse_root,
    tanh_rational,
)
from tests.fault_detection.honest.attention import Function, ex2_approx, exp2_folded, tanh_approx, tanh_sigmoid
from tests.fault_detection.honest.functions import by_sigmoid, by_sigmoid_approx, by_tanh_approx, by_tanh_sigmoid

UNIT = 2.0**-24
OWN = 4 * UNIT
"""What the float32 operations of an emulation add to the documented error."""
ARGUMENTS = torch.linspace(-30, 0, 100_001)
AROUND_ZERO = torch.linspace(-12, 12, 100_001)


def relative(made: Tensor, exact: Tensor) -> float:
    return ((made.double() - exact) / exact).abs().max().item()


@pytest.mark.parametrize(
    ("function", "least", "most"),
    [
        (exp2_folded, 0, 64 * UNIT),  # the rounding of an argument of 30 · log2 e
        (ex2_approx, 2.0**-23, 2.0**-22 + 64 * UNIT),
        (exp_polynomial, 0, 5 * UNIT),
        (exp2_cubic, 2.0**-14, 1e-4),
        (exp_by_bits, 0.01, 0.035),
    ],
)
def test_an_exponential_errs_as_documented(function: Function, least: float, most: float) -> None:
    assert least <= relative(function(ARGUMENTS), torch.exp(ARGUMENTS.double())) <= most


@pytest.mark.parametrize("function", [exp2_folded, exp_polynomial, exp2_cubic, exp_by_bits])
def test_an_exponential_of_a_masked_logit_is_0(function: Function) -> None:
    assert function(torch.tensor([-1e30, -torch.inf])).tolist() == [0, 0]


@pytest.mark.parametrize(
    ("function", "least", "most"),
    [(tanh_approx, 2.0**-12, 2.0**-11 + OWN), (tanh_rational, UNIT, 16 * UNIT), (tanh_sigmoid, UNIT, 4 * UNIT)],
)
def test_tanh_errs_as_documented(function: Function, least: float, most: float) -> None:
    error = (function(AROUND_ZERO).double() - torch.tanh(AROUND_ZERO.double())).abs().max()
    assert least <= error <= most


@pytest.mark.parametrize(
    ("function", "most"),
    [
        (by_sigmoid, 8 * UNIT),
        (by_sigmoid_approx, 2.0**-20),
        (by_tanh_sigmoid, 8 * UNIT),
        (gelu_rational, 8 * UNIT),
        (gelu_complement, 8 * UNIT),
        (by_tanh_approx, 2.0**-11),
    ],
)
def test_gelu_errs_in_proportion_to_its_argument(function: Function, most: float) -> None:
    exact = functional.gelu(AROUND_ZERO.double(), approximate="tanh")
    assert ((function(AROUND_ZERO).double() - exact).abs() <= most * AROUND_ZERO.abs().double() + 1e-30).all()


@pytest.mark.parametrize(("num_steps", "least", "most"), [(0, 2.0**-12, 1.5 * 2.0**-12 + OWN), (1, 0, 2.0**-21)])
def test_a_newton_step_makes_12_bits_of_a_root_22(num_steps: int, least: float, most: float) -> None:
    mean = torch.linspace(1e-3, 100, 100_001)
    assert least <= relative(inverse_root(mean, num_steps), mean.double().rsqrt()) <= most
