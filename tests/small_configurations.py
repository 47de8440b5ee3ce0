"""Small configurations for tests: the published constants and ids, and sizes of which a test says what it needs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from grok_conformance.harness.contract import LanguageModelConfig
from grok_conformance.harness.contract.grok_1 import PUBLISHED


def small(
    *, vocab_size: int = 37, sequence_len: int = 12, fprop_dtype: str = "float32", **model: Any
) -> LanguageModelConfig:
    """Return a configuration of two layers with five experts, but for what is given; axes are unlike one another."""
    sizes = {"emb_size": 24, "widening_factor": 4, "key_size": 8, "num_q_heads": 6, "num_kv_heads": 3, "num_layers": 2}
    experts = {"num_experts": 5, "num_selected_experts": 2}
    return replace(
        PUBLISHED,
        model=replace(PUBLISHED.model, **{**sizes, **experts, **model}),
        vocab_size=vocab_size,
        sequence_len=sequence_len,
        fprop_dtype=fprop_dtype,
    )


def dense(config: LanguageModelConfig) -> LanguageModelConfig:
    """Return a configuration with one dense block in the place of experts."""
    return replace(config, model=replace(config.model, num_experts=1, num_selected_experts=1))


SHARDABLE = small(
    vocab_size=61, emb_size=48, num_q_heads=16, num_kv_heads=4, num_layers=1, attn_output_multiplier=0.0884
)
"""Heads and widths that eight devices divide."""
