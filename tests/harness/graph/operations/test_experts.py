"""The feed-forward block: honest arithmetic stays within the fences, gelu by erf does not."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.operations import experts
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from tests.harness.graph.operations.drawn_values import (
    Elementwise,
    bf16,
    draw,
    excess,
    f32,
    scope_of,
    wide,
)

INDEX = np.zeros((1, 1, 1))
"""Chosen experts, where their order does not matter."""


def by_tanh(x: Array) -> Array:
    return f32(0.5) * x * (f32(1) + np.tanh(f32(math.sqrt(2 / math.pi)) * (x + f32(0.044715) * x * x * x)))


def by_two_halves(x: Array) -> Array:
    inner = f32(math.sqrt(2 / math.pi)) * x * (f32(1) + f32(0.044715) * (x * x))
    half = f32(0.5) * x
    return half + half * np.tanh(inner)


def by_sigmoid(x: Array) -> Array:
    inner = f32(math.sqrt(2 / math.pi)) * (x + f32(0.044715) * x**3)
    with np.errstate(over="ignore"):
        return x / (f32(1) + np.exp(f32(-2) * inner))


GELU_INPUTS = np.concatenate(
    [
        draw(4000),
        np.linspace(-12, 12, 4001, dtype=f32),
        np.linspace(-6, -3, 4001, dtype=f32),
        np.array([0, 1e-30, -1e-30, 1e6], f32),
    ]
)


@pytest.mark.parametrize("gelu", [by_tanh, by_two_halves, by_sigmoid])
def test_an_honest_float32_gelu_stays_within_its_fence_in_the_left_tail_too(gelu: Elementwise) -> None:
    up = draw(len(GELU_INPUTS), seed=1)
    observed = gelu(GELU_INPUTS) * up
    assert observed.dtype == np.float32
    exact = experts.gated_hidden(wide(GELU_INPUTS), wide(up), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(observed, exact) <= 1


def test_gelu_by_erf_leaves_its_fence() -> None:
    x, up = GELU_INPUTS, np.ones_like(GELU_INPUTS)
    observed = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()])
    exact = experts.gated_hidden(wide(x), wide(up), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(observed, exact) > 100


@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_an_honest_bf16_dense_block_stays_within_its_fence(inner: str) -> None:
    activation, up = draw(20_000, size=2.0).astype(bf16), draw(20_000, seed=1).astype(bf16)
    gated = by_two_halves(activation.astype(np.float32))
    if inner == "rounded":
        gated = gated.astype(bf16).astype(np.float32)
    observed = (gated * up.astype(np.float32)).astype(bf16)
    plan = RoundingPlan({"gelu": inner})
    exact = experts.dense_hidden(wide(activation), wide(up), scope=scope_of("bfloat16"), plan=plan)
    assert excess(observed, exact, "bfloat16") <= 1


@pytest.mark.parametrize("inner", ["rounded", "kept"])
@pytest.mark.parametrize("num_chosen", [1, 2, 3])
def test_an_honest_bf16_sum_of_experts_stays_within_its_fence(num_chosen: int, inner: str) -> None:
    gate, outputs = np.abs(draw(1, 200, num_chosen)), draw(1, 200, num_chosen, 40, seed=1)
    held = gate.astype(bf16).astype(np.float32) if inner == "rounded" else gate
    observed = np.zeros((1, 200, 40), np.float32)
    for c in range(num_chosen):
        observed += held[..., c, None] * outputs[..., c, :]
    plan = RoundingPlan({"gate": inner})
    exact = experts.combine(wide(gate), wide(outputs), INDEX, scope=scope_of("bfloat16"), plan=plan)
    assert excess(observed.astype(bf16), exact, "bfloat16") <= 1


def test_gates_in_bf16_leave_the_fence_of_a_float32_model() -> None:
    gate, outputs = np.abs(draw(1, 200, 2)), draw(1, 200, 2, 40, seed=1)
    observed = np.einsum("btc,btcd->btd", gate.astype(bf16).astype(np.float32), outputs)
    exact = experts.combine(wide(gate), wide(outputs), INDEX, scope=scope_of("float32"), plan=AS_PUBLISHED)
    assert excess(observed, exact) > 100
