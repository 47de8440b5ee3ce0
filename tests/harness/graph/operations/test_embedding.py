"""Embedding and output logits: honest arithmetic stays within the fences."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.operations import embedding
from grok_conformance.harness.graph.rounding import RoundingPlan
from tests.harness.graph.operations.drawn_values import (
    bf16,
    draw,
    excess,
    f32,
    scope_of,
    wide,
)


def summed_apart(x: Array, w: Array) -> Array:
    """Multiply x [.., k] by w [k, n] in float32, the terms added in halves, last first."""
    half = x.shape[-1] // 2
    return (x[..., half:] @ w[half:] + x[..., :half] @ w[:half]).astype(np.float32)


@pytest.mark.parametrize("constant", ["rounded", "kept"])
@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_an_honest_bf16_embedding_stays_within_its_fence(inner: str, constant: str) -> None:
    table, tokens = draw(101, 40, size=0.0127), np.arange(100, dtype=np.int32).reshape(4, 25)
    rows = table[tokens].astype(bf16).astype(np.float32) if inner == "rounded" else table[tokens]
    multiplier = f32(78.5) if constant == "rounded" else f32(UNEQUAL.embedding_multiplier_scale)
    plan = RoundingPlan({"rows": inner, "multiplier": constant})
    exact = embedding.embedding(wide(table), scope=scope_of("bfloat16", tokens=tokens), plan=plan)
    assert excess((rows * multiplier).astype(bf16), exact, "bfloat16") <= 1


@pytest.mark.parametrize("inner", ["rounded", "kept"])
def test_honest_bf16_output_logits_stay_within_their_fence(inner: str) -> None:
    hidden, table = draw(1, 50, 40).astype(bf16), draw(400, 40, seed=1, size=0.0127)
    product = summed_apart(hidden.astype(np.float32), table.astype(bf16).astype(np.float32).T)
    if inner == "rounded":
        product = product.astype(bf16).astype(np.float32)
    observed = (product * f32(0.578125)).astype(bf16)
    plan = RoundingPlan({"product": inner})
    exact = embedding.logits(wide(hidden), wide(table), scope=scope_of("bfloat16"), plan=plan)
    assert excess(observed, exact, "bfloat16") <= 1


def test_multipliers_are_78_5_and_0_578125_in_bf16_and_unrounded_in_float32() -> None:
    narrow, float32 = scope_of("bfloat16"), scope_of("float32")
    assert embedding.constant(78.38367176906169, narrow, "rounded") == 78.5
    assert embedding.constant(0.5773502691896257, narrow, "rounded") == 0.578125
    assert embedding.constant(78.38367176906169, float32, "rounded") == np.float32(78.38367176906169)
    assert embedding.constant(78.38367176906169, narrow, "kept") == np.float32(78.38367176906169)
