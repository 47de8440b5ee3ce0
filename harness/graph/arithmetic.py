"""Rounding, contractions and their errors in float64 (Higham, Accuracy and Stability of Numerical Algorithms, §3–4)."""

from __future__ import annotations

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


def round_to(x: Array, dtype: str) -> Array:
    """Round to the nearest value of a narrower dtype, ties to even, and return it as float64."""
    return x.astype(np.float32).astype(DTYPES[dtype]).astype(np.float64)


def rounding_jump(x: Array, error: Array, dtype: str) -> Array:
    """Return by how much the rounding of x to a dtype can jump when x is known only to within an error."""
    return round_to(x + error, dtype) - round_to(x - error, dtype)


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
    """Multiply x [..., k] by w [k, n], with the error of a float32 accumulation."""
    value = x @ w  # [..., n]
    return Exact(value, spread=contraction_spread(sum_of_squares(x, w), value, x.shape[-1]))


def sum_of_squares(x: Array, w: Array) -> Array:
    """Return Σ (x_k w_kn)² for x [..., k] and w [k, n], to within float32 rounding: a spread needs no more digits.

    Rows are brought to a largest element of 1 before they are squared, so that none underflows.
    """
    size = np.max(np.abs(x), axis=-1, keepdims=True, initial=0.0)
    size = np.where(size > 0, size, 1.0)
    squares = np.square((x / size).astype(np.float32)) @ np.square(w, dtype=np.float32, casting="same_kind")
    summed: Array = np.square(size) * squares  # float64 again
    return summed


def contract_sharded(x: Array, w: Array, shards: int, dtype: str, reach: float) -> Exact:
    """Multiply x [..., k] by w [k, n] in so many shards of k, whose partial sums are rounded and added in a dtype.

    `reach` is λ·u(float32)/√3, within which a partial sum may round either way. What the additions round is in random
    order like any sum, but of few terms and in the narrow dtype; the last rounding is that of the result.
    """
    if shards == 1 or dtype == "float32" or x.shape[-1] % shards:
        return contract(x, w)
    parts = [contract(a, b) for a, b in zip(np.split(x, shards, -1), np.split(w, shards, -2), strict=True)]
    rounded = [round_to(part.value, dtype) for part in parts]
    total = np.sum(rounded, axis=0)
    jump = sum(np.abs(rounding_jump(part.value, reach * np.asarray(part.spread), dtype)) for part in parts)
    squares = np.sum(np.square(rounded), axis=0)
    added = contraction_spread(squares, total, shards) if shards > 2 else 0.0  # noqa: PLR2004 - one addition, of two
    return Exact(total, spread=added * UNIT_ROUNDOFF[dtype] / UNIT_ROUNDOFF["float32"], jump=jump)


def contract_by_expert(x: Array, w: Array, index: Array) -> Exact:
    """Multiply each chosen row x [b, t, c, k] by its expert's matrix w [e, k, n]; index int [b, t, c]."""
    value = np.zeros((*index.shape, w.shape[-1]))  # [b, t, c, n]
    spread = np.zeros_like(value)
    for expert in np.unique(index):
        chosen = index == expert
        product = contract(x[chosen], w[expert])  # [rows, n]
        value[chosen], spread[chosen] = product.value, product.spread
    return Exact(value, spread=spread)


def softmax(logits: Array, visible: Array) -> Exact:
    """Softmax over the last axis among the visible entries; the others are exactly 0.

    The error of p = exp(l - m)/Σ is p times that of the argument, of the exponential and of the sum.
    """
    maximum = np.where(visible, logits, -np.inf).max(-1, keepdims=True)
    distance = np.where(visible, maximum - logits, 0.0)
    value = np.exp(-distance)
    value *= visible
    value /= value.sum(-1, keepdims=True)
    error = np.abs(logits)
    error += distance  # of the argument of exp(l - m): logits kept with one rounding, and the subtraction
    error += 4 + np.einsum("...s,...s->...", value, error)[..., None]
    error *= value
    num_terms = visible.sum(-1, keepdims=True)
    return Exact(value, bound=error, spread=value * np.sqrt(num_terms / 3), shared=True, argument=-distance)
