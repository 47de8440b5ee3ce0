"""Tiny models and checkpoints of them, to be streamed and to be held in memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import LanguageModelConfig, TransformerConfig
from grok_conformance.reference import checkpoint
from tests.reference.published import tree

CONFIG = LanguageModelConfig(
    model=TransformerConfig(
        emb_size=48,
        widening_factor=4,
        key_size=8,
        num_q_heads=16,
        num_kv_heads=4,
        num_layers=2,
        attn_output_multiplier=0.0884,
        num_experts=5,
        num_selected_experts=2,
    ),
    vocab_size=61,
    pad_token=0,
    eos_token=2,
    sequence_len=12,
    embedding_multiplier_scale=78.38367176906169,
    output_multiplier_scale=0.5773502691896257,
    fprop_dtype="float32",
)
TOKENS = np.random.default_rng(0).integers(1, 61, (2, 6)).astype(np.int32)


def save(
    folder: Path, dtype: str = "bfloat16", statistics: Statistics | None = None, **changes: Any
) -> tuple[Path, reference.LanguageModelConfig, reference.Params]:
    """Write a checkpoint of a tiny model with some fields of its decoder changed; return it, its config and weights."""
    config = replace(CONFIG, model=replace(CONFIG.model, **changes))
    params = tree(synthesize(config, statistics or Statistics(seed=9, num_groups=8)))
    fields = vars(config) | {
        "fprop_dtype": jnp.dtype(dtype),
        "model": reference.TransformerConfig(**vars(config.model)),
    }
    made = reference.LanguageModelConfig(**fields)
    return checkpoint.save(folder, made, params), made, params
