"""Narrow results and statistics are as coarse as they say, and touch no port that may be as coarse."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import narrow_results
from grok_conformance.harness.faults.narrow_arithmetic import bf16
from grok_conformance.harness.graph.operations import attention, norm
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Function
from tests.harness.graph.operations.drawn_values import draw, excess, scope_of, wide

X, GAIN = wide(draw(3, 4, 64)), wide(draw(64, seed=1))


def normed(function: Function) -> Array:
    made = function(X, GAIN, scope=scope_of(), plan=AS_PUBLISHED)
    return np.asarray(made.value)


@pytest.mark.parametrize(
    "function",
    [
        narrow_results.norm_of(bf16, narrow_results.unchanged, narrow_results.unchanged),
        narrow_results.norm_of(narrow_results.unchanged, bf16, narrow_results.unchanged),
        narrow_results.norm_of(narrow_results.unchanged, narrow_results.unchanged, narrow_results.float16),
        narrow_results.norm_of_bf16_sum,
    ],
    ids=range(4),
)
def test_a_narrow_statistic_leaves_the_fence_of_a_norm_by_less_than_two_roundings(function: Function) -> None:
    exact = norm.rms_norm(X, GAIN, scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(normed(function), exact) > 10
    assert np.abs(normed(function) / exact.value - 1).max() < 2.0**-5


def test_a_norm_of_which_nothing_is_changed_is_the_honest_one() -> None:
    same = narrow_results.norm_of(*(narrow_results.unchanged,) * 3)
    assert np.allclose(normed(same), norm.rms_norm(X, GAIN, scope=scope_of(), plan=AS_PUBLISHED).value, rtol=1e-14)


def test_frequencies_and_phases_that_are_not_narrowed_turn_as_they_should() -> None:
    x = wide(draw(1, 6, 3, 8))
    same = narrow_results.rotated_by(narrow_results.unchanged, narrow_results.unchanged)
    scope = scope_of(steps=np.array([300]))
    honest = attention.rotate(x, scope=scope, plan=AS_PUBLISHED)
    assert np.allclose(same(x, scope=scope, plan=AS_PUBLISHED).value, honest.value, rtol=1e-12, atol=1e-12)
    narrow = narrow_results.rotated_by(narrow_results.unchanged, bf16)
    assert excess(narrow(x, scope=scope, plan=AS_PUBLISHED).value, honest) > 100


def test_results_and_operands_of_a_narrow_port_are_left_alone() -> None:
    changed = narrow_results.result_of(norm.rms_norm, bf16)
    for dtype, same in (("float32", False), ("bfloat16", True)):
        made, honest = (f(X, GAIN, scope=scope_of(dtype), plan=AS_PUBLISHED).value for f in (changed, norm.rms_norm))
        assert np.array_equal(made, honest) == same
        change = narrow_results.multiplying_in_float32(narrow_results.of_both(bf16))
        assert (change(scope_of(dtype)).multiply is None) == same


@pytest.mark.parametrize(("grid", "least", "most"), [("int8", 1e-3, 2e-2), ("fp8", 5e-3, 5e-2), ("int4", 2e-2, 0.5)])
def test_weights_stored_again_err_by_as_much_as_their_grid_leaves_open(grid: str, least: float, most: float) -> None:
    x, w = X[0], wide(draw(64, 7, seed=2))
    error = narrow_results.WEIGHT_GRIDS[grid](x, w) - x @ w
    assert least < np.linalg.norm(error) / np.linalg.norm(x @ w) < most


def test_one_scale_for_all_is_that_of_the_largest() -> None:
    made = narrow_results.int8_per_tensor(np.array([[127.0, 0.4], [1.6, -3.0]]))
    assert made.tolist() == [[127.0, 0.0], [2.0, -3.0]]
