"""Norms and residuals: honest arithmetic stays within the fences, another epsilon does not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.operations import norm, router
from grok_conformance.harness.graph.rounding import AS_PUBLISHED
from grok_conformance.harness.graph.row import Exact
from tests.harness.graph.operations.drawn_values import (
    bf16,
    divided,
    draw,
    excess,
    f32,
    scope_of,
    wide,
)


def test_a_softmax_in_bf16_or_renormalised_over_fewer_entries_leaves_its_fence() -> None:
    logits = draw(40, 8)
    exact = router.router_probabilities(wide(logits), scope=scope_of(), plan=AS_PUBLISHED)
    narrow = divided(logits.astype(bf16).astype(np.float32))
    assert excess(narrow, exact) > 100
    assert excess(divided(logits[:, :-1]), replace_value(exact, exact.value[:, :-1])) > 1000


def replace_value(exact: Exact, value: Array) -> Exact:
    return Exact(value, bound=np.asarray(exact.bound)[..., : value.shape[-1]])


def by_rsqrt(x: Array, gain: Array) -> Array:
    mean = np.square(x).mean(-1, keepdims=True, dtype=np.float32)
    return x * (f32(1) / np.sqrt(mean + f32(1e-5))) * gain


def by_division(x: Array, gain: Array) -> Array:
    total = np.add.accumulate(np.square(x), axis=-1)[..., -1:]
    return (x * gain) / np.sqrt(total / f32(x.shape[-1]) + f32(1e-5))


@pytest.mark.parametrize("size", [1e-6, 1e-3, 1.0, 1e3])
@pytest.mark.parametrize("width", [40, 6144])
@pytest.mark.parametrize("normalise", [by_rsqrt, by_division])
def test_an_honest_float32_norm_stays_within_its_fence_for_small_inputs_too(
    normalise: Callable[[Array, Array], Array], width: int, size: float
) -> None:
    x, gain = draw(30, width, size=size), np.abs(draw(width, seed=1)) + f32(0.5)
    observed = normalise(x, gain)
    assert observed.dtype == np.float32
    exact = norm.rms_norm(wide(x), wide(gain), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(observed, exact) <= 1


def test_another_epsilon_leaves_the_fence_for_small_inputs() -> None:
    x, gain = draw(30, 40, size=1e-2), np.ones(40, np.float32)
    observed = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + f32(1e-6)) * gain
    exact = norm.rms_norm(wide(x), wide(gain), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(observed, exact) > 100
    assert excess(observed.astype(bf16), exact, "bfloat16") > 1


def test_equal_probabilities_go_to_the_lowest_expert_and_gates_are_not_renormalised() -> None:
    probabilities = np.array([[[0.1, 0.3, 0.2, 0.3, 0.1]]])
    index = router.expert_index(probabilities, scope=scope_of(), plan=AS_PUBLISHED).value
    assert index.tolist() == [[[1, 3]]]
    gate = router.expert_gate(probabilities, index, scope=scope_of(), plan=AS_PUBLISHED).value
    assert gate.tolist() == [[[0.3, 0.3]]]


def test_residuals_and_gates_may_err_by_one_rounding_and_no_more() -> None:
    x, update = draw(400), draw(400, seed=1)
    exact = norm.add_residual(wide(x), wide(update), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(x + update, exact) <= 1
    assert excess((x + update) * f32(1 + 2.0**-20), exact) > 1
    probabilities = divided(draw(1, 40, 5))
    index = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
    gates = router.expert_gate(wide(probabilities), index, scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(np.take_along_axis(probabilities, index, -1), gates) == 0
    assert excess(round_to(gates.value, "bfloat16"), gates) > 100
