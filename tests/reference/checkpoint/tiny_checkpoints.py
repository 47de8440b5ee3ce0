"""A tiny model with more than ten layers, in which every axis has its own length, and checkpoints of it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import numpy as np

from grok_conformance.reference import LanguageModelConfig
from grok_conformance.reference.parameters import Params, parameter_shapes
from tests.reference.shardable import as_reference
from tests.small_configurations import small

CONFIG = as_reference(
    small(
        vocab_size=61,
        emb_size=48,
        key_size=10,
        num_q_heads=16,
        num_kv_heads=4,
        num_layers=12,
        attn_output_multiplier=0.316,
    )
)
ONE_LAYER = replace(CONFIG, model=replace(CONFIG.model, num_layers=1))
DENSE = replace(CONFIG, model=replace(CONFIG.model, num_layers=2, num_experts=1, num_selected_experts=1))


def random_params(config: LanguageModelConfig, *, seed: int = 0, **storage: Any) -> Params:
    """Return random weights, NaN and −0 among the floats, stored as `parameter_shapes` says."""
    generator = np.random.default_rng(seed)

    def array(shape: jax.ShapeDtypeStruct) -> Any:
        if shape.dtype == np.int8:
            return generator.integers(-127, 128, shape.shape, dtype=np.int8)
        values = generator.standard_normal(shape.shape, dtype=np.float32)
        values.reshape(-1)[:2] = np.nan, -0.0
        return values.astype(shape.dtype)

    params: Params = jax.tree.map(array, parameter_shapes(config, **storage))
    return params


def bits(array: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return dtype, shape and bytes: equal for arrays that are equal bit for bit, NaN and −0 included."""
    on_host = np.asarray(array)
    return str(on_host.dtype), on_host.shape, on_host.tobytes()


def all_bits(params: Params) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    """Return the bits of every array of a tree by its path."""
    return {jax.tree_util.keystr(path): bits(array) for path, array in jax.tree_util.tree_leaves_with_path(params)}
