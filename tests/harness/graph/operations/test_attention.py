"""Attention: honest arithmetic stays within the fences; caches, blind queries and groups of heads."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.operations import attention
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from grok_conformance.harness.graph.row import Scope
from tests.harness.graph.operations.drawn_values import (
    bf16,
    divided,
    draw,
    excess,
    f32,
    scope_of,
    wide,
)

KEPT = RoundingPlan({"query · key": "kept"})


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
        exact = attention.rotate(wide(x), scope=scope_of(steps=np.array([start])), plan=AS_PUBLISHED)
        assert excess(observed, exact) <= 1


@pytest.mark.parametrize("start", [300, 2100, 4090])
def test_positions_or_phases_in_bf16_leave_the_fence(start: int) -> None:
    x = draw(1, 6, 3, 8)
    exact = attention.rotate(wide(x), scope=scope_of(steps=np.array([start])), plan=AS_PUBLISHED)
    narrow = by_power(4).astype(bf16).astype(np.float32)
    assert excess(rotated(x, start, narrow), exact) > 100
    assert excess(rotated(x, start + 1, by_power(4)), exact) > 100


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
        exact = attention.attention_logits(wide(query), wide(keys), scope=scope, plan=AS_PUBLISHED if rounds else KEPT)
        assert excess(observed, exact) <= 1
    if size == 25.0:
        assert np.abs(observed).max() > 29


@pytest.mark.parametrize("size", [5.0, 25.0])
def test_a_missing_or_hard_cap_leaves_the_fence(size: float) -> None:
    query, keys = draw(1, 7, 12, 8, size=size), draw(1, 9, 3, 8, seed=1)
    exact = attention.attention_logits(wide(query), wide(keys), scope=scope_of(), plan=AS_PUBLISHED)
    plain = np.einsum("btgrh,bsgh->bgrts", query.reshape(1, 7, 3, 4, 8), keys) * UNEQUAL.model.attn_output_multiplier
    assert excess(plain, exact) > 100
    assert excess(np.clip(plain, -30, 30), exact) > 100


def test_a_query_that_sees_no_key_averages_over_the_slots_reached_and_in_decode_over_all() -> None:
    logits = draw(1, 3, 4, 2, 9).astype(np.float64)
    visible = np.zeros((1, 2, 9), bool)
    visible[0, 1, :4] = True
    prefill = Scope(UNEQUAL, np.ones((1, 2), np.int32), np.array([3], np.int32), visible, 0.0)
    weights = attention.attention_weights(logits, scope=prefill, plan=AS_PUBLISHED).value
    assert np.allclose(weights[..., 0, :], [0.2] * 5 + [0.0] * 4)
    assert (weights[..., 1, 4:] == 0).all()
    decode = Scope(UNEQUAL, np.zeros((1, 1), np.int32), np.array([3], np.int32), np.zeros((1, 1, 9), bool), 0.0)
    weights = attention.attention_weights(logits[..., :1, :], scope=decode, plan=AS_PUBLISHED).value
    assert np.allclose(weights, 1 / 9)


def test_the_cache_takes_new_rows_at_each_rows_step_and_keeps_the_rest() -> None:
    cache, new = np.full((2, 5, 1, 1), 7.0), np.arange(4.0).reshape(2, 2, 1, 1)
    scope = scope_of(tokens=np.ones((2, 2), np.int32), steps=np.array([0, 3]))
    made = attention.update_cache(cache, new, scope=scope, plan=AS_PUBLISHED).value
    assert made[..., 0, 0].tolist() == [[0, 1, 7, 7, 7], [7, 7, 7, 2, 3]]
    assert (cache == 7).all()


def test_query_heads_share_the_key_head_of_their_contiguous_group() -> None:
    query, keys = np.zeros((1, 1, 12, 8)), np.zeros((1, 1, 3, 8))
    query[..., 0] = 1
    keys[0, 0, :, 0] = [1, 2, 3]
    made = attention.attention_logits(query, keys, scope=scope_of(), plan=AS_PUBLISHED).value
    ratios = made[0, :, :, 0, 0] / made[0, 0, 0, 0, 0]  # [g, r]
    assert np.allclose(ratios, np.repeat([[1], [2], [3]], 4, axis=1), rtol=1e-4)


def test_attention_over_values_stays_within_its_fence_whatever_the_unused_slots() -> None:
    weights, values = divided(draw(1, 3, 4, 5, 300)), draw(1, 300, 3, 8, seed=1)
    observed = np.zeros((1, 5, 3, 4, 8), np.float32)
    for s in range(300):
        observed += np.einsum("bgrt,bgh->btgrh", weights[..., s], values[:, s])
    exact = attention.attend(wide(weights), wide(values), scope=scope_of(), plan=AS_PUBLISHED)
    assert excess(observed.reshape(1, 5, 12, 8), exact) <= 1


def in_bf16(x: Array) -> Array:
    return x.astype(bf16).astype(np.float32)


@pytest.mark.parametrize("which", ["query", "keys", "both"])
@pytest.mark.parametrize("rounds", [False, True])
def test_scores_scaled_before_the_product_are_those_of_that_plan_alone(which: str, *, rounds: bool) -> None:
    query, keys = in_bf16(draw(1, 7, 12, 8, size=4.0)), in_bf16(draw(1, 9, 3, 8, seed=1))
    multiplier = UNEQUAL.model.attn_output_multiplier
    factor = f32(math.sqrt(multiplier) if which == "both" else multiplier)
    scaled = query if which == "keys" else in_bf16(query * factor), keys if which == "query" else in_bf16(keys * factor)
    product = np.einsum("btgrh,bsgh->bgrts", scaled[0].reshape(1, 7, 3, 4, 8), scaled[1])
    observed = f32(30) * np.tanh((in_bf16(product) if rounds else product) / f32(30))
    plan = RoundingPlan({"scale": which + (", product rounded" if rounds else "")})
    exact = [attention.attention_logits(wide(query), wide(keys), scope=scope_of("bfloat16"), plan=each)
             for each in (plan, AS_PUBLISHED)]  # fmt: skip
    assert excess(observed, exact[0]) <= 1
    assert excess(observed, exact[1]) > 10


def test_averages_of_splits_rounded_before_they_are_merged_are_those_of_that_plan_alone() -> None:
    weights, values = in_bf16(divided(draw(1, 3, 4, 5, 40))), in_bf16(draw(1, 40, 3, 8, seed=1))
    observed = np.zeros((1, 5, 3, 4, 8))
    for at in (slice(0, 20), slice(20, 40)):
        total = weights[..., at].sum(-1).transpose(0, 3, 1, 2)[..., None]
        observed += in_bf16(np.einsum("bgrts,bsgh->btgrh", weights[..., at], values[:, at]) / total) * total
    exact = [attention.attend(wide(weights), wide(values), scope=scope_of("bfloat16"), plan=plan)
             for plan in (RoundingPlan({"splits": "2"}), AS_PUBLISHED)]  # fmt: skip
    assert excess(observed.reshape(1, 5, 12, 8), exact[0]) <= 1
    assert excess(observed.reshape(1, 5, 12, 8), exact[1]) > 10
    uneven = attention.attend(
        wide(weights), wide(values), scope=scope_of("bfloat16"), plan=RoundingPlan({"splits": "3, evenly"})
    )
    assert excess(observed.reshape(1, 5, 12, 8), uneven) > 10


def test_a_rotation_by_rounded_products_is_that_of_its_plan_alone() -> None:
    x = in_bf16(draw(1, 6, 3, 16))
    phase = np.arange(6)[:, None] * np.tile(by_power(8), 2)
    cos, sin = (f(phase).astype(np.float32)[None, :, None] for f in (np.cos, np.sin))
    turned = np.concatenate([-x[..., 8:], x[..., :8]], -1)
    observed = in_bf16(x * cos) + in_bf16(turned * sin)
    exact = [attention.rotate(wide(x), scope=scope_of("bfloat16"), plan=plan)
             for plan in (RoundingPlan({"rotated": "rounded"}), AS_PUBLISHED)]  # fmt: skip
    assert excess(observed, exact[0]) <= 1
    assert excess(observed, exact[1]) > 10
