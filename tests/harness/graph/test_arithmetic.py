from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.harness.contract import DTYPES, Array
from grok_conformance.harness.graph.arithmetic import (
    SMALLEST_NORMAL,
    UNIT_ROUNDOFF,
    contract,
    round_to,
    rounding_jump,
    softmax,
    sum_of_squares,
)
from grok_conformance.harness.measure.noise import fence_of, tail_factor

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
NARROW = st.sampled_from(["bfloat16", "float16"])
FACTOR = tail_factor(10**6)

Sum = Callable[[Array], Array]
"""Adds float32 terms [k, n] over k, in float32."""


def sequential(terms: Array) -> Array:
    total: Array = np.add.accumulate(terms, axis=0, dtype=np.float32)[-1]
    return total


def reversed_order(terms: Array) -> Array:
    return sequential(terms[::-1])


def permuted(terms: Array) -> Array:
    return sequential(np.random.default_rng(5).permutation(terms, axis=0))


def pairwise(terms: Array) -> Array:
    while len(terms) > 1:
        even = len(terms) // 2 * 2
        terms = np.concatenate([terms[:even:2] + terms[1:even:2], terms[even:]])
    total: Array = terms[0]
    return total


def blocked(terms: Array) -> Array:
    return pairwise(np.stack([sequential(block) for block in np.array_split(terms, 8) if len(block)]))


SUMS: tuple[Sum, ...] = (sequential, reversed_order, permuted, pairwise, blocked)


def operands(kind: str, num_terms: int) -> tuple[Array, Array]:
    """Draw float32 x [1, k] and w [k, 200]: of both signs, all positive, or with one term that dwarfs the rest."""
    random = np.random.default_rng(num_terms)
    x, w = random.standard_normal((1, num_terms)), random.standard_normal((num_terms, 200))
    if kind == "positive":
        x, w = np.abs(x), np.abs(w)
    if kind == "dominated":
        x[0, num_terms // 2] = 1e4
    return x.astype(np.float32), w.astype(np.float32)


@given(FINITE)
def test_rounding_to_bf16_adds_half_an_ulp_and_cuts_the_bits(x: float) -> None:
    bits = int(np.float32(x).view(np.uint32))
    cut = np.uint32((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view(np.float32)
    assert round_to(np.array(x), "bfloat16") == np.float64(cut)


@given(st.floats(-60000, 60000, width=32))
def test_rounding_to_float16_gives_the_nearest_neighbour(x: float) -> None:
    rounded = np.float16(round_to(np.array(x), "float16"))
    for away in (-np.inf, np.inf):
        assert abs(float(rounded) - x) <= abs(float(np.nextafter(rounded, np.float16(away))) - x)


@given(FINITE, FINITE, NARROW)
def test_rounding_is_idempotent_odd_and_monotone(x: float, y: float, dtype: str) -> None:
    low, high = np.clip(sorted([x, y]), -6e4, 6e4)
    rounded = round_to(np.array([low, high]), dtype)
    assert rounded.dtype == np.float64
    assert rounded[0] <= rounded[1]
    assert np.array_equal(round_to(rounded, dtype), rounded)
    assert np.array_equal(round_to(-np.array([low, high]), dtype), -rounded)
    assert np.array_equal(rounded.astype(DTYPES[dtype]).astype(np.float64), rounded)


@given(st.floats(2.0**-13, 6e4), st.sampled_from(["float32", "bfloat16", "float16"]))
def test_rounding_errs_by_at_most_the_unit_roundoff(x: float, dtype: str) -> None:
    assert abs(float(round_to(np.array(x), dtype)) - x) <= UNIT_ROUNDOFF[dtype] * x * (1 + 2.0**-13)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_roundoff_and_smallest_normal_are_those_of_the_dtype(dtype: str) -> None:
    info = ml_dtypes.finfo(DTYPES[dtype])
    assert UNIT_ROUNDOFF[dtype] == float(info.eps) / 2
    assert SMALLEST_NORMAL[dtype] == float(info.smallest_normal)


@given(st.floats(0.0078125, 100, width=32), st.floats(0, 0.1))
def test_a_rounding_jump_covers_every_value_within_the_error(x: float, error: float) -> None:
    jump = float(rounding_jump(np.array(x), np.array(error), "bfloat16"))
    for shift in np.linspace(-error, error, 9):
        assert abs(round_to(np.array(x + shift), "bfloat16") - round_to(np.array(x), "bfloat16")) <= jump


def test_an_inner_rounding_that_no_error_can_reach_does_not_jump() -> None:
    assert rounding_jump(np.array(1.001), np.array(1e-6), "bfloat16") == 0
    assert rounding_jump(np.array(1 + 2.0**-8), np.array(1e-6), "bfloat16") == 2.0**-7


@pytest.mark.parametrize("num_terms", [1, 8, 64, 1024, 8192])
@pytest.mark.parametrize("kind", ["normal", "positive", "dominated"])
@pytest.mark.parametrize("add", SUMS)
def test_a_float32_sum_in_any_order_stays_within_its_fence(add: Sum, kind: str, num_terms: int) -> None:
    x, w = operands(kind, num_terms)
    exact = contract(x.astype(np.float64), w.astype(np.float64))
    observed = add(x[0, :, None] * w)
    assert observed.dtype == np.float32
    error = np.abs(observed - exact.value[0])
    assert (error <= fence_of(exact, "float32", FACTOR).allowed[0]).all()


@pytest.mark.parametrize("num_terms", [64, 1024])
def test_a_sum_accumulated_in_bf16_leaves_its_fence(num_terms: int) -> None:
    x, w = operands("normal", num_terms)
    total = np.zeros(200, ml_dtypes.bfloat16)
    for term in (x[0, :, None] * w).astype(ml_dtypes.bfloat16):
        total = total + term
    exact = contract(x.astype(np.float64), w.astype(np.float64))
    error = np.abs(total.astype(np.float64) - exact.value[0])
    assert (error > fence_of(exact, "float32", FACTOR).allowed[0]).mean() > 0.9


def test_the_fence_of_a_sum_is_no_wider_than_the_worst_case_for_few_terms() -> None:
    x, w = operands("normal", 8)
    exact = contract(x.astype(np.float64), w.astype(np.float64))
    worst_case = 8 * UNIT_ROUNDOFF["float32"] * (np.abs(x) @ np.abs(w))
    assert np.median(fence_of(exact, "float32", FACTOR).allowed / worst_case) < 3


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32 - 1), st.sampled_from([0.1, 5.0, 1e3, 1e30]))
def test_softmax_is_exactly_zero_where_masked_and_sums_to_one(rows: int, keys: int, seed: int, size: float) -> None:
    random = np.random.default_rng(seed)
    logits = random.standard_normal((rows, keys)) * size
    visible = random.random((rows, keys)) < 0.6
    visible[:, random.integers(keys)] = True
    made = softmax(logits, visible)
    assert (made.value[~visible] == 0).all()
    assert (np.asarray(made.bound)[~visible] == 0).all()
    assert np.allclose(made.value.sum(-1), 1, rtol=1e-14)
    assert np.isfinite(made.bound).all()


def test_softmax_ignores_what_masked_entries_hold() -> None:
    visible = np.array([[True, True, False]])
    calm, wild = softmax(np.array([[0.0, 1.0, 0.0]]), visible), softmax(np.array([[0.0, 1.0, 1e30]]), visible)
    assert np.array_equal(calm.value, wild.value)
    assert np.array_equal(np.asarray(calm.bound), np.asarray(wild.bound))


@pytest.mark.parametrize("size", [1e-30, 1e-24, 1.0, 1e20, 1e30])
def test_squares_are_summed_at_every_size_and_beside_columns_of_another(size: float) -> None:
    random = np.random.default_rng(0)
    x, w = random.standard_normal((3, 8)) * size, random.standard_normal((8, 5))
    w[:, 0] *= size
    assert np.allclose(sum_of_squares(x, w), np.square(x) @ np.square(w), rtol=1e-5)
