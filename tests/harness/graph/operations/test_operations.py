"""Honest float32 and bf16 implementations stay within the fences of every operation, and dishonest ones do not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array, LanguageModelConfig
from grok_conformance.harness.graph.arithmetic import round_to, softmax
from grok_conformance.harness.graph.operations import attention, embedding, experts, norm, router
from grok_conformance.harness.graph.row import CANONICAL, Alternative, Exact, Scope
from grok_conformance.harness.measure.noise import fence_of, margin, tail_factor

NUM_ELEMENTS = 10**6
f32 = np.float32
bf16 = ml_dtypes.bfloat16
KEPT = Alternative("kept", inner="kept")

Elementwise = Callable[[Array], Array]


def scope_of(dtype: str = "float32", *, tokens: Array | None = None, steps: Array | None = None, **model: Any) -> Scope:
    config: LanguageModelConfig = replace(UNEQUAL, fprop_dtype=dtype, model=replace(UNEQUAL.model, **model))
    tokens = np.ones((1, 1), np.int32) if tokens is None else tokens
    steps = np.zeros(len(tokens), np.int32) if steps is None else steps
    return Scope(config, tokens, steps, np.ones((1, 1, 1), bool), margin(NUM_ELEMENTS))


def excess(observed: Array, exact: Exact, recorded: str = "float32") -> float:
    """Return the worst element's error over its fence."""
    error = np.abs(observed.astype(np.float64) - exact.value)
    return float((error / fence_of(exact, recorded, tail_factor(NUM_ELEMENTS)).allowed).max())


def wide(x: Array) -> Array:
    return x.astype(np.float64)


def draw(*shape: int, seed: int = 0, size: float = 1.0) -> Array:
    return (np.random.default_rng(seed).standard_normal(shape) * size).astype(np.float32)


def summed_apart(x: Array, w: Array) -> Array:
    """Multiply x [.., k] by w [k, n] in float32, the terms added in halves, last first."""
    half = x.shape[-1] // 2
    return (x[..., half:] @ w[half:] + x[..., :half] @ w[:half]).astype(np.float32)


# Softmax: the router's and the attention's.


def divided(shifted: Array) -> Array:
    weights = np.exp(shifted)
    return weights / weights.sum(-1, keepdims=True)


def multiplied(shifted: Array) -> Array:
    weights = np.exp(shifted)
    total = np.add.accumulate(weights, axis=-1)[..., -1:]
    return weights * (f32(1) / total)


def in_base_2(shifted: Array) -> Array:
    weights = np.exp2(shifted * f32(math.log2(math.e)))
    return weights / weights.sum(-1, keepdims=True)


@pytest.mark.parametrize("size", [0.01, 1.0, 30.0, 1000.0])
@pytest.mark.parametrize("num_keys", [2, 8, 300, 4100])
@pytest.mark.parametrize("normalise", [divided, multiplied, in_base_2])
def test_an_honest_float32_softmax_stays_within_its_fence(normalise: Elementwise, num_keys: int, size: float) -> None:
    logits = draw(40, num_keys, size=size, seed=num_keys)
    observed = normalise(logits - logits.max(-1, keepdims=True))
    assert observed.dtype == np.float32
    assert excess(observed, softmax(wide(logits), np.ones_like(logits, bool))) <= 1


def test_a_softmax_in_bf16_or_renormalised_over_fewer_entries_leaves_its_fence() -> None:
    logits = draw(40, 8)
    exact = router.router_probabilities(wide(logits), scope=scope_of(), alternative=CANONICAL)
    narrow = divided(logits.astype(bf16).astype(np.float32))
    assert excess(narrow, exact) > 100
    assert excess(divided(logits[:, :-1]), replace_value(exact, exact.value[:, :-1])) > 1000


def replace_value(exact: Exact, value: Array) -> Exact:
    return Exact(value, bound=np.asarray(exact.bound)[..., : value.shape[-1]])


# Gated gelu.


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
    exact = experts.gated_hidden(wide(GELU_INPUTS), wide(up), scope=scope_of(), alternative=CANONICAL)
    assert excess(observed, exact) <= 1


def test_gelu_by_erf_leaves_its_fence() -> None:
    x, up = GELU_INPUTS, np.ones_like(GELU_INPUTS)
    observed = np.array([0.5 * v * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()])
    exact = experts.gated_hidden(wide(x), wide(up), scope=scope_of(), alternative=CANONICAL)
    assert excess(observed, exact) > 100


# RMSNorm.


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
    exact = norm.rms_norm(wide(x), wide(gain), scope=scope_of(), alternative=CANONICAL)
    assert excess(observed, exact) <= 1


def test_another_epsilon_leaves_the_fence_for_small_inputs() -> None:
    x, gain = draw(30, 40, size=1e-2), np.ones(40, np.float32)
    observed = x / np.sqrt(np.square(x).mean(-1, keepdims=True) + f32(1e-6)) * gain
    exact = norm.rms_norm(wide(x), wide(gain), scope=scope_of(), alternative=CANONICAL)
    assert excess(observed, exact) > 100
    assert excess(observed.astype(bf16), exact, "bfloat16") > 1


# RoPE.


def by_reciprocal(half: int) -> Array:
    return f32(1) / f32(10000) ** (np.arange(half).astype(f32) / f32(half))


def by_power(half: int) -> Array:
    return f32(10000) ** (-np.arange(half).astype(f32) / f32(half))


def by_exponential(half: int) -> Array:
    return np.exp(np.arange(half).astype(f32) * f32(-math.log(10000) / half))


def by_exponential_of_the_quotient(half: int) -> Array:
    return np.exp(-(np.arange(half).astype(f32) / f32(half)) * f32(math.log(10000)))


def rotated(x: Array, start: int, frequencies: Array) -> Array:
    half = x.shape[-1] // 2
    positions = (start + np.arange(x.shape[1])).astype(np.float32)
    phase = (positions[:, None] * frequencies)[None, :, None, :]  # [1, t, 1, h/2]
    cos, sin = np.cos(phase), np.sin(phase)
    first, second = x[..., :half], x[..., half:]
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], -1)


@pytest.mark.parametrize("start", [0, 300, 2100, 4090, 8186])
@pytest.mark.parametrize("frequencies", [by_reciprocal, by_power, by_exponential, by_exponential_of_the_quotient])
def test_an_honest_float32_rope_stays_within_its_fence_at_large_positions(
    frequencies: Callable[[int], Array], start: int
) -> None:
    for half in (2, 3, 4, 6, 7, 10, 32, 40, 48, 64):
        x = draw(1, 6, 3, 2 * half, seed=start)
        observed = rotated(x, start, frequencies(half))
        assert observed.dtype == np.float32
        exact = attention.rotate(wide(x), scope=scope_of(steps=np.array([start])), alternative=CANONICAL)
        assert excess(observed, exact) <= 1


@pytest.mark.parametrize("start", [300, 2100, 4090])
def test_positions_or_phases_in_bf16_leave_the_fence(start: int) -> None:
    x = draw(1, 6, 3, 8)
    exact = attention.rotate(wide(x), scope=scope_of(steps=np.array([start])), alternative=CANONICAL)
    narrow = by_power(4).astype(bf16).astype(np.float32)
    assert excess(rotated(x, start, narrow), exact) > 100
    assert excess(rotated(x, start + 1, by_power(4)), exact) > 100


# Attention logits: scaled and capped.


@pytest.mark.parametrize("size", [0.01, 1.0, 25.0])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_honest_attention_logits_stay_within_their_fence_up_to_the_cap(dtype: str, size: float) -> None:
    query, keys = draw(2, 7, 12, 8, size=size), draw(2, 9, 3, 8, seed=1, size=math.sqrt(size))
    if dtype == "bfloat16":
        query, keys = query.astype(bf16).astype(np.float32), keys.astype(bf16).astype(np.float32)
    product = np.zeros((2, 3, 4, 7, 9), np.float32)
    for h in reversed(range(8)):  # summed in float32, the last first
        grouped = query[..., h].reshape(2, 7, 3, 4)
        product += np.einsum("btgr,bsg->bgrts", grouped, keys[..., h])
    multiplier = f32(UNEQUAL.model.attn_output_multiplier)
    scope = scope_of(dtype)
    for rounds in (True, False):
        inner = product.astype(bf16).astype(np.float32) if rounds and dtype == "bfloat16" else product
        observed = f32(30) * np.tanh(inner * multiplier / f32(30))
        assert observed.dtype == np.float32
        exact = attention.attention_logits(
            wide(query), wide(keys), scope=scope, alternative=CANONICAL if rounds else KEPT
        )
        assert excess(observed, exact) <= 1
    if size == 25.0:
        assert np.abs(observed).max() > 29


@pytest.mark.parametrize("size", [5.0, 25.0])
def test_a_missing_or_hard_cap_leaves_the_fence(size: float) -> None:
    query, keys = draw(1, 7, 12, 8, size=size), draw(1, 9, 3, 8, seed=1)
    exact = attention.attention_logits(wide(query), wide(keys), scope=scope_of(), alternative=CANONICAL)
    plain = np.einsum("btgrh,bsgh->bgrts", query.reshape(1, 7, 3, 4, 8), keys) * UNEQUAL.model.attn_output_multiplier
    assert excess(plain, exact) > 100
    assert excess(np.clip(plain, -30, 30), exact) > 100


# Blind queries, the cache, the top experts: values, not errors.


def test_a_query_that_sees_no_key_averages_over_the_slots_reached_and_in_decode_over_all() -> None:
    logits = draw(1, 3, 4, 2, 9).astype(np.float64)
    visible = np.zeros((1, 2, 9), bool)
    visible[0, 1, :4] = True
    prefill = Scope(UNEQUAL, np.ones((1, 2), np.int32), np.array([3], np.int32), visible, 0.0)
    weights = attention.attention_weights(logits, scope=prefill, alternative=CANONICAL).value
    assert np.allclose(weights[..., 0, :], [0.2] * 5 + [0.0] * 4)
    assert (weights[..., 1, 4:] == 0).all()
    decode = Scope(UNEQUAL, np.zeros((1, 1), np.int32), np.array([3], np.int32), np.zeros((1, 1, 9), bool), 0.0)
    weights = attention.attention_weights(logits[..., :1, :], scope=decode, alternative=CANONICAL).value
    assert np.allclose(weights, 1 / 9)


def test_the_cache_takes_new_rows_at_each_rows_step_and_keeps_the_rest() -> None:
    cache, new = np.full((2, 5, 1, 1), 7.0), np.arange(4.0).reshape(2, 2, 1, 1)
    scope = scope_of(tokens=np.ones((2, 2), np.int32), steps=np.array([0, 3]))
    made = attention.update_cache(cache, new, scope=scope, alternative=CANONICAL).value
    assert made[..., 0, 0].tolist() == [[0, 1, 7, 7, 7], [7, 7, 7, 2, 3]]
    assert (cache == 7).all()


def test_equal_probabilities_go_to_the_lowest_expert_and_gates_are_not_renormalised() -> None:
    probabilities = np.array([[[0.1, 0.3, 0.2, 0.3, 0.1]]])
    index = router.expert_index(probabilities, scope=scope_of(), alternative=CANONICAL).value
    assert index.tolist() == [[[1, 3]]]
    gate = router.expert_gate(probabilities, index, scope=scope_of(), alternative=CANONICAL).value
    assert gate.tolist() == [[[0.3, 0.3]]]


def test_query_heads_share_the_key_head_of_their_contiguous_group() -> None:
    query, keys = np.zeros((1, 1, 12, 8)), np.zeros((1, 1, 3, 8))
    query[..., 0] = 1
    keys[0, 0, :, 0] = [1, 2, 3]
    made = attention.attention_logits(query, keys, scope=scope_of(), alternative=CANONICAL).value
    ratios = made[0, :, :, 0, 0] / made[0, 0, 0, 0, 0]  # [g, r]
    assert np.allclose(ratios, np.repeat([[1], [2], [3]], 4, axis=1), rtol=1e-4)


# bf16: inner roundings, taken or left.


@pytest.mark.parametrize("constant", ["rounded", "kept"])
@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_an_honest_bf16_embedding_stays_within_its_fence(inner: str, constant: str) -> None:
    table, tokens = draw(101, 40, size=0.0127), np.arange(100, dtype=np.int32).reshape(4, 25)
    rows = table[tokens].astype(bf16).astype(np.float32) if inner == "rounded" else table[tokens]
    multiplier = f32(78.5) if constant == "rounded" else f32(UNEQUAL.embedding_multiplier_scale)
    alternative = Alternative("a test", inner=inner, constant=constant)
    exact = embedding.embedding(wide(table), scope=scope_of("bfloat16", tokens=tokens), alternative=alternative)
    assert excess((rows * multiplier).astype(bf16), exact, "bfloat16") <= 1


@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_honest_bf16_output_logits_stay_within_their_fence(inner: str) -> None:
    hidden, table = draw(1, 50, 40).astype(bf16), draw(400, 40, seed=1, size=0.0127)
    product = summed_apart(hidden.astype(np.float32), table.astype(bf16).astype(np.float32).T)
    if inner == "rounded":
        product = product.astype(bf16).astype(np.float32)
    observed = (product * f32(0.578125)).astype(bf16)
    alternative = Alternative("a test", inner=inner)
    exact = embedding.logits(wide(hidden), wide(table), scope=scope_of("bfloat16"), alternative=alternative)
    assert excess(observed, exact, "bfloat16") <= 1


@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_an_honest_bf16_dense_block_stays_within_its_fence(inner: str) -> None:
    activation, up = draw(20_000, size=2.0).astype(bf16), draw(20_000, seed=1).astype(bf16)
    gated = by_two_halves(activation.astype(np.float32))
    if inner == "rounded":
        gated = gated.astype(bf16).astype(np.float32)
    observed = (gated * up.astype(np.float32)).astype(bf16)
    alternative = Alternative("a test", inner=inner)
    exact = experts.dense_hidden(wide(activation), wide(up), scope=scope_of("bfloat16"), alternative=alternative)
    assert excess(observed, exact, "bfloat16") <= 1


@pytest.mark.parametrize("inner", ["rounded", "kept"])
@pytest.mark.parametrize("num_chosen", [1, 2, 3])
def test_an_honest_bf16_sum_of_experts_stays_within_its_fence(num_chosen: int, inner: str) -> None:
    gate, outputs = np.abs(draw(1, 200, num_chosen)), draw(1, 200, num_chosen, 40, seed=1)
    held = gate.astype(bf16).astype(np.float32) if inner == "rounded" else gate
    observed = np.zeros((1, 200, 40), np.float32)
    for c in range(num_chosen):
        observed += held[..., c, None] * outputs[..., c, :]
    alternative = Alternative("a test", inner=inner)
    exact = experts.combine(wide(gate), wide(outputs), scope=scope_of("bfloat16"), alternative=alternative)
    assert excess(observed.astype(bf16), exact, "bfloat16") <= 1


def test_gates_in_bf16_leave_the_fence_of_a_float32_model() -> None:
    gate, outputs = np.abs(draw(1, 200, 2)), draw(1, 200, 2, 40, seed=1)
    observed = np.einsum("btc,btcd->btd", gate.astype(bf16).astype(np.float32), outputs)
    exact = experts.combine(wide(gate), wide(outputs), scope=scope_of("float32"), alternative=CANONICAL)
    assert excess(observed, exact) > 100


def test_attention_over_values_stays_within_its_fence_whatever_the_unused_slots() -> None:
    weights, values = divided(draw(1, 3, 4, 5, 300)), draw(1, 300, 3, 8, seed=1)
    observed = np.zeros((1, 5, 3, 4, 8), np.float32)
    for s in range(300):
        observed += np.einsum("bgrt,bgh->btgrh", weights[..., s], values[:, s])
    exact = attention.attend(wide(weights), wide(values), scope=scope_of(), alternative=CANONICAL)
    assert excess(observed.reshape(1, 5, 12, 8), exact) <= 1


def test_multipliers_are_78_5_and_0_578125_in_bf16_and_unrounded_in_float32() -> None:
    narrow, float32 = scope_of("bfloat16"), scope_of("float32")
    assert embedding.multiplier(78.38367176906169, narrow, CANONICAL) == 78.5
    assert embedding.multiplier(0.5773502691896257, narrow, CANONICAL) == 0.578125
    assert embedding.multiplier(78.38367176906169, float32, CANONICAL) == np.float32(78.38367176906169)
    unrounded = Alternative("kept", constant="kept")
    assert embedding.multiplier(78.38367176906169, narrow, unrounded) == np.float32(78.38367176906169)


def test_residuals_and_gates_may_err_by_one_rounding_and_no_more() -> None:
    x, update = draw(400), draw(400, seed=1)
    exact = norm.add_residual(wide(x), wide(update), scope=scope_of(), alternative=CANONICAL)
    assert excess(x + update, exact) <= 1
    assert excess((x + update) * f32(1 + 2.0**-20), exact) > 1
    probabilities = divided(draw(1, 40, 5))
    index = np.argsort(-probabilities, axis=-1, kind="stable")[..., :2]
    gates = router.expert_gate(wide(probabilities), index, scope=scope_of(), alternative=CANONICAL)
    assert excess(np.take_along_axis(probabilities, index, -1), gates) == 0
    assert excess(round_to(gates.value, "bfloat16"), gates) > 100
