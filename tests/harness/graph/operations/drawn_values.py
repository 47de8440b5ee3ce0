"""Drawn inputs of operations, and how far a result goes beyond its fence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import Array, LanguageModelConfig
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import fence_of, margin, tail_factor

NUM_ELEMENTS = 10**6


f32 = np.float32


bf16 = ml_dtypes.bfloat16


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


def divided(shifted: Array) -> Array:
    weights = np.exp(shifted)
    return weights / weights.sum(-1, keepdims=True)
