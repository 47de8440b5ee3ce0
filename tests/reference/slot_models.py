"""A float32 model small enough to compile in seconds, whose greedy answers depend on the whole prompt."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from grok_conformance.reference import LanguageModelConfig, QuantizedWeight8bit
from grok_conformance.reference.parameters import Params, parameter_shapes
from grok_conformance.reference.quantization import is_quantized
from tests.reference.shardable import as_reference
from tests.small_configurations import small

CONFIG = replace(
    as_reference(
        small(
            vocab_size=48,
            sequence_len=20,
            emb_size=32,
            widening_factor=2,
            num_q_heads=4,
            num_kv_heads=2,
            attn_output_multiplier=0.35,
            num_experts=3,
        )
    ),
    embedding_multiplier_scale=2.0,
    output_multiplier_scale=1.0,
)


def random_params(config: LanguageModelConfig, seed: int = 0) -> Params:
    """Return weights with sharp, strong attention: the next token depends on all before it, not on the last alone."""
    generator = np.random.default_rng(seed)

    def leaf(path: str, shapes: Any) -> Any:
        if is_quantized(shapes):
            gain = 4 if path.endswith(("query", "key")) else 1
            weight = generator.integers(-127, 128, shapes.shape).astype(np.int8)
            scales = gain * generator.uniform(1, 2, shapes.scales.shape) / (110 * np.sqrt(shapes.shape[-2]))
            return QuantizedWeight8bit(weight, scales.astype(shapes.scales.dtype))
        if "norm" in path:
            update = {"rms_norm_1": 8.0, "rms_norm_3": 2.0}.get(path.rpartition("/")[2], 1.0)
            return np.full(shapes.shape, update, np.float32)
        return (0.5 * generator.standard_normal(shapes.shape)).astype(np.float32)

    shapes = parameter_shapes(config, num_groups=4)
    return {path: {name: leaf(path, shape) for name, shape in names.items()} for path, names in shapes.items()}
