"""The router: honest float32 softmax stays within its fence, a narrow one does not; ties."""

from __future__ import annotations

import math

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import softmax
from tests.harness.graph.operations.drawn_values import (
    Elementwise,
    divided,
    draw,
    excess,
    f32,
    wide,
)


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
