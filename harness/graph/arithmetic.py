"""Rounding, contractions and their errors in float64 (Higham, Accuracy and Stability of Numerical Algorithms, §3–4)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.rounding import ACCUMULATOR, ATOMICS, EVENLY, RESULT, SUMS, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope

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

SMALLEST_SQUARED = 1e-15
"""The size below which, and above whose inverse, a column is scaled before it is squared in float32."""


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
    largest = np.maximum(w.max(-2, initial=0.0, keepdims=True), -w.min(-2, initial=0.0, keepdims=True))  # [..., 1, n]
    usual = bool(np.all((largest == 0) | ((largest > SMALLEST_SQUARED) & (largest < 1 / SMALLEST_SQUARED))))
    column = np.ones_like(largest) if usual else np.where(largest > 0, largest, 1.0)
    scaled = w if usual else w / column
    squares = np.square((x / size).astype(np.float32)) @ np.square(scaled, dtype=np.float32, casting="same_kind")
    summed: Array = np.square(size) * squares  # float64 again
    return summed if usual else summed * np.square(column)


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


def contract_in_parts(x: Array, w: Array, sums: str, dtype: str, margin: float) -> Exact:
    """Multiply x [..., k] by w [k, n] in shards of k, whose partial sums are rounded to a dtype and then added.

    `sums` is a choice at the point of that name: how many, and in which order.
    """
    count, _, order = sums.removesuffix(EVENLY).partition(" ")
    share_out = evenly if sums.endswith(EVENLY) else in_tiles
    parts = partial_sums(x, w, share_out(x.shape[-1], int(count)), dtype, margin)
    if order == "at once":
        total = np.sum([part.value for part in parts], axis=0)
        jump = sum(np.asarray(part.jump) for part in parts)
        return Exact(total, bound=len(parts) * np.abs(total), jump=jump)
    if order == "in turn":
        return add_rounded(parts, dtype)
    if order == ATOMICS:
        return add_in_any_order(parts, dtype)
    return add_as_tree(parts, dtype) if order == "as tree" else add_as_ring(parts, dtype, int(count), share_out)


def partial_sums(x: Array, w: Array, shards: Sequence[slice], dtype: str, margin: float) -> list[Exact]:
    """Multiply x [..., k] by w [k, n] in each of some shards of k and round; those of one length together."""
    parts = []
    for size, alike in itertools.groupby(shards, key=lambda at: at.stop - at.start):
        first, *others = alike
        at, count = slice(first.start, first.stop + size * len(others)), 1 + len(others)
        some = np.moveaxis(x[..., at].reshape(*x.shape[:-1], count, size), -2, 0)  # [parts, ..., size]
        made = contract(some, w[at].reshape(count, *(1,) * (x.ndim - 2), size, w.shape[-1]))
        made = rounded(made, dtype, margin)
        parts += [Exact(value, jump=jump) for value, jump in zip(made.value, np.asarray(made.jump), strict=True)]
    return parts


def add_in_any_order(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add a few terms in an order that is not known, every sum rounded: between the least and the largest result."""
    orders = [add_rounded(each, dtype) for each in itertools.permutations(parts)]
    low, high = (
        limit.reduce([round_to(each.value + sign * np.asarray(each.jump), dtype) for each in orders])
        for limit, sign in ((np.minimum, -1), (np.maximum, 1))
    )
    return Exact((low + high) / 2, jump=(high - low) / 2)


Sharing = Callable[[int, int], list[slice]]
"""Shares a length out in so many parts; those that are empty are left out."""


def in_tiles(length: int, num_parts: int) -> list[slice]:
    """Share a length out in equal tiles, the last of which may be shorter."""
    return parts_between([min(length, -(-length // num_parts) * i) for i in range(num_parts + 1)])


def evenly(length: int, num_parts: int) -> list[slice]:
    """Share a length out so that no two parts differ by more than one, the longer ones first."""
    return parts_between([i * (length // num_parts) + min(i, length % num_parts) for i in range(num_parts + 1)])


def parts_between(ends: Sequence[int]) -> list[slice]:
    """Return the parts of a length between some ends, without empty ones."""
    return [slice(first, last) for first, last in itertools.pairwise(ends) if last > first]


def add_as_tree(parts: Sequence[Exact], dtype: str) -> Exact:
    """Add neighbours in pairs until one sum is left, every sum but the last rounded."""
    level = list(parts)
    while len(level) > 1:
        pairs = [level[i : i + 2] for i in range(0, len(level), 2)]
        last = len(pairs) == 1
        level = [
            pair[0] if len(pair) == 1 else added if last else rounded(added, dtype, 0.0)
            for pair in pairs
            for added in [add_rounded(pair, dtype)]
        ]
    return level[0]


def add_as_ring(parts: Sequence[Exact], dtype: str, num_ranks: int, share_out: Sharing) -> Exact:
    """Add around a ring: the sum of every chunk of features starts at another part, as a reduce-scatter does it."""
    value = np.stack([part.value for part in parts])  # [parts, ..., n]
    jump = np.stack([np.asarray(part.jump) for part in parts])
    turns = np.empty((len(parts), *(1,) * (value.ndim - 2), value.shape[-1]), np.int64)  # which part is added when
    for chunk, at in enumerate(share_out(value.shape[-1], num_ranks)):
        ranks = [(chunk + 1 + i) % num_ranks for i in range(num_ranks)]
        turns[..., at] = np.reshape([rank for rank in ranks if rank < len(parts)], (-1, *(1,) * (value.ndim - 1)))
    turned = zip(np.take_along_axis(value, turns, 0), np.take_along_axis(jump, turns, 0), strict=True)
    return add_rounded([Exact(one, jump=reach) for one, reach in turned], dtype)


BLOCK = 8
"""Products that a tensor core aligns and truncates together; published sizes are 4, 8 and 16."""


def truncated(exact: Exact, num_terms: int) -> Exact:
    """Return a sum whose accumulator truncates after every block of products instead of rounding: a bias.

    Every block loses up to two units of its partial sum, and of its largest product what lies below the common
    exponent (Fasi et al., Numerical behavior of NVIDIA tensor cores, 2021).
    """
    size = np.abs(exact.value) + np.asarray(exact.spread) / math.sqrt(num_terms / 2 + 1)
    return replace(exact, bound=exact.bound + 2 * math.ceil(num_terms / BLOCK) * size)


def product(x: Array, w: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply x [..., k] by w [k, n] as a plan says: partial sums, accumulator, and what becomes of the result."""
    dtype = scope.config.fprop_dtype
    in_parts = scope.rounds and plan.at(SUMS) != SUMS.published
    exact = contract_in_parts(x, w, plan.at(SUMS), dtype, scope.margin) if in_parts else contract(x, w)
    if scope.multiply is not None:
        exact = replace(exact, value=scope.multiply(x, w))
    if plan.at(ACCUMULATOR) == "truncates":
        exact = truncated(exact, x.shape[-1])
    return rounded(exact, dtype, scope.margin) if scope.rounds and plan.at(RESULT) == "rounded" else exact


def product_by_expert(x: Array, w: Array, index: Array, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply each chosen row x [b, t, c, k] by its expert's matrix w [e, k, n]; index int [b, t, c]."""
    value = np.zeros((*index.shape, w.shape[-1]))  # [b, t, c, n]
    bound, spread, jump = np.zeros_like(value), np.zeros_like(value), np.zeros_like(value)
    for expert in np.unique(index):
        chosen = index == expert
        made = product(x[chosen], w[expert], scope, plan)  # [rows, n]
        value[chosen], bound[chosen], spread[chosen], jump[chosen] = made.value, made.bound, made.spread, made.jump
    return Exact(value, bound=bound if bound.any() else 0.0, spread=spread, jump=jump if jump.any() else 0.0)


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
