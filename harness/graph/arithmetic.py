"""Rounding, contractions and their errors in float64 (Higham, Accuracy and Stability of Numerical Algorithms, §3–4)."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.row import Exact

UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "int32": 0.0}
SMALLEST_NORMAL = {
    "float64": 2.0**-1022,
    "float32": 2.0**-126,
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
    "int32": 0.0,
}

TANH_APPROXIMATE_ERROR = 2.0**-11
"""Largest relative error of PTX's tanh.approx.f32 (PTX ISA)."""

SMALLEST_SQUARE = 1e-30
"""The square below which, and above whose inverse, a column is scaled before it is squared in float32."""


def round_to(x: Array, dtype: str) -> Array:
    """Round to the nearest value of a narrower dtype, ties to even, and return it as float64; beyond it is infinity."""
    with np.errstate(over="ignore"):
        return x.astype(np.float32).astype(DTYPES[dtype]).astype(np.float64)


def rounding_jump(x: Array, error: Array, dtype: str) -> Array:
    """Return by how much the rounding of x to a dtype can jump when x is known only to within an error."""
    return round_to(x + error, dtype) - round_to(x - error, dtype)


def approximation(error: Array) -> Array:
    """Return the bound, in units of u(float32), of an approximation's documented largest error.

    What is bounded is taken to lie anywhere within; nothing is known of where an approximation errs most, so that all
    elements may lie at its end.
    """
    return math.sqrt(3) / UNIT_ROUNDOFF["float32"] * error


def contraction_spread(squares: Array, total: Array, num_terms: int) -> Array:
    """Return √3 times the standard deviation of a sum of K products, in units of u, in any order of summation.

    Recursive summation rounds every partial sum S_k once: the variance is u²·Σ S_k²/3. For terms in random order
    Σ S_k² is about K/2·Σ(ab)² for what fluctuates and K/3·S² for what accumulates.
    """
    variance = np.square(total)
    variance *= num_terms / 3
    variance += (1 + num_terms / 2) * squares
    return np.sqrt(variance, out=variance)


def contract(x: Array, w: Array) -> Exact:
    """Multiply x [..., k] by w [..., k, n], with the error of a float32 accumulation."""
    value = x @ w  # [..., n]
    return Exact(value, spread=contraction_spread(sum_of_squares(x, w), value, x.shape[-1]))


def sum_of_squares(x: Array, w: Array) -> Array:
    """Return Σ (x_k w_kn)² for x [..., k] and w [..., k, n], to within float32 rounding: a spread needs no more digits.

    Rows, and columns of unusual size, are brought to a largest element of 1 before they are squared, so that none
    underflows and none overflows.
    """
    size = np.max(np.abs(x), axis=-1, keepdims=True, initial=0.0)
    size = np.where(size > 0, size, 1.0)
    rows = np.square((x / size).astype(np.float32))
    with np.errstate(over="ignore", under="ignore"):
        squares = np.square(w, dtype=np.float32, casting="same_kind")
    largest = squares.max(-2, initial=0.0)  # [..., n]
    if np.all((largest > SMALLEST_SQUARE) & (largest < 1 / SMALLEST_SQUARE)):
        summed: Array = np.square(size) * (rows @ squares)  # float64 again
        return summed
    column = np.abs(w).max(-2, initial=0.0, keepdims=True)  # [..., 1, n]
    column = np.where(column > 0, column, 1.0)
    scaled: Array = np.square(size) * (rows @ np.square(w / column, dtype=np.float32, casting="same_kind"))
    return scaled * np.square(column)


def rounded(exact: Exact, dtype: str, margin: float) -> Exact:
    """Round a result inside an operation to a dtype; its own error is left as what the rounding can jump by.

    `margin` is λ·u(float32)/√3, within which a sum of many terms is known.
    """
    reach = UNIT_ROUNDOFF["float32"] * np.asarray(exact.bound) + margin * np.asarray(exact.spread) + exact.jump
    jump = np.abs(rounding_jump(exact.value, reach, dtype))
    return Exact(round_to(exact.value, dtype), jump=jump, argument=exact.argument)


def add_rounded(terms: Sequence[Exact], dtype: str) -> Exact:
    """Add terms of one shape in turn, every sum but the last rounded to a dtype.

    Rounding keeps the order of numbers, so that the ends of an interval bound what the roundings can jump by.
    """
    limits = (np.stack([term.value, term.value - term.jump, term.value + term.jump]) for term in terms)
    value, low, high = functools.reduce(lambda total, term: round_to(total, dtype) + term, limits)
    return Exact(value, jump=np.maximum(high - value, value - low))


def times(made: Exact, factor: float) -> Exact:
    """Return a result times a factor."""
    value = made.value * factor
    return Exact(value, bound=made.bound * factor + np.abs(value), spread=made.spread * factor, jump=made.jump * factor)


def softmax(logits: Array, visible: Array, ceiling: float | None = None) -> Exact:
    """Softmax over the last axis among the visible entries; the others are exactly 0.

    The error of p = exp(l - m)/Σ is p times that of the argument, of the exponential and of the sum. A `ceiling` that
    no logit exceeds takes the place of the maximum m: the argument is then larger, and so is its rounding.
    """
    maximum = np.where(visible, logits, -np.inf).max(-1, keepdims=True)
    distance = np.where(visible, maximum - logits, 0.0)
    value = np.exp(-distance)
    value *= visible
    value /= value.sum(-1, keepdims=True)
    # Of the argument of exp(l - m): logits kept with one rounding, and the subtraction.
    error = np.abs(logits)
    error += distance if ceiling is None else np.where(visible, ceiling - logits, 0.0)
    error += 4 + np.einsum("...s,...s->...", value, error)[..., None]
    error *= value
    num_terms = visible.sum(-1, keepdims=True)
    return Exact(value, bound=error, spread=value * np.sqrt(num_terms / 3), shared=True, argument=-distance)
