"""Tiny models whose axes all differ, stored in every way, for the tests of a port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager.model import TorchModel
from grok_conformance.candidates.torch_eager.parameters import parameter_shapes
from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig
from tests.small_configurations import dense, small

CONFIG = small(sequence_len=19, attn_output_multiplier=0.35)
DENSE = dense(CONFIG)
ELEVEN_EXPERTS = replace(CONFIG, model=replace(CONFIG.model, num_experts=11, num_selected_experts=3))

# Configuration, scale groups of the row-parallel matrices (0: plain floats), dtype of the scales.
MODELS = {
    "1 group": (CONFIG, 1, "bfloat16"),
    "4 groups": (CONFIG, 4, "bfloat16"),
    "16 groups, float32 scales": (CONFIG, 16, "float32"),
    "plain": (CONFIG, 0, ""),
    "dense": (DENSE, 4, "bfloat16"),
    "dense, float32 scales": (DENSE, 1, "float32"),
    "dense, plain": (DENSE, 0, ""),
    "eleven experts": (ELEVEN_EXPERTS, 4, "bfloat16"),
}


def random_weights(config: LanguageModelConfig, num_groups: int, scales_dtype: str) -> dict[str, Array]:
    random = np.random.default_rng(7)
    weights: dict[str, Array] = {}
    for name, shape in parameter_shapes(config).items():
        if name.endswith("/scale"):
            weights[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif name.endswith("embeddings"):
            weights[name] = (0.0128 * random.standard_normal(shape)).astype(np.float32)
        elif name.endswith("router/w") or not num_groups:
            weights[name] = (random.standard_normal(shape) / shape[-2] ** 0.5).astype(np.float32)
        else:
            groups = num_groups if name.endswith(("attention/linear/w", "linear_1/w")) else 1
            scales = random.uniform(0.5, 1.5, (*shape[:-2], groups, shape[-1])) / 73 / shape[-2] ** 0.5
            weights[f"{name}.weight"] = random.integers(-127, 128, shape, np.int8)
            weights[f"{name}.scales"] = scales.astype(DTYPES[scales_dtype])
    return weights


def load(name: str, fprop_dtype: str = "float32") -> TorchModel:
    config, num_groups, scales_dtype = MODELS[name]
    return torch_eager.load(replace(config, fprop_dtype=fprop_dtype), random_weights(config, num_groups, scales_dtype))


def random_tokens(*shape: int) -> Array:
    return np.random.default_rng(3).integers(1, CONFIG.vocab_size, shape, np.int32)


def ints(*values: int) -> Array:
    return np.array(values, np.int32)


def relative_rms(observed: Array, expected: Array) -> float:
    difference = observed.astype(np.float64) - expected.astype(np.float64)
    return float(np.linalg.norm(difference) / np.linalg.norm(expected.astype(np.float64)))


def cut(taps: Mapping[str, Array], rows: slice, tokens: slice, num_seen: int) -> dict[str, Array]:
    """Cut every tap to some rows, some of the call's tokens and the first slots of the cache."""
    parts = {}
    for name, value in taps.items():
        if ".kv." in name:
            parts[name] = value[rows, :num_seen]
        elif name.endswith(("attention.logits", "attention.weights")):
            parts[name] = value[rows, :, :, tokens, :num_seen]
        else:
            parts[name] = value[rows, tokens]
    return parts


Parts = Sequence[Mapping[str, Array]]
"""The taps of several calls or rows."""


def assert_agree(observed: Parts, expected: Parts) -> None:
    """Every tap, all its parts together, agrees to float32 rounding."""

    def joined(parts: Parts, name: str) -> Array:
        return np.concatenate([part[name].ravel() for part in parts])

    assert len(observed) == len(expected)
    errors = {name: relative_rms(joined(observed, name), joined(expected, name)) for name in expected[0]}
    assert errors
    assert max(errors.values()) <= 1e-6, errors
