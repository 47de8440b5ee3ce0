"""The model's configuration under its published names, and presets (SPEC §1)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec

from grok_conformance.reference.memory import KVMemory, Memory


def ffn_size(emb_size: int, widening_factor: float) -> int:
    """Return the hidden width f of an expert: two thirds of the widened model width, a multiple of 8 (SPEC §1)."""
    size = int(widening_factor * emb_size) * 2 // 3
    return size + (8 - size) % 8


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """The decoder's configuration (SPEC §1).

    `attn_output_multiplier` scales the attention logits, its name notwithstanding. With `num_experts <= 1` the block
    is dense. `shard_activations` shards the residual stream over `model_axis` too.
    Raises ValueError for sizes that no model can have.
    """

    emb_size: int
    key_size: int
    num_q_heads: int
    num_kv_heads: int
    num_layers: int
    widening_factor: float = 4.0
    attn_output_multiplier: float = 1.0
    num_experts: int = -1
    num_selected_experts: int = 1
    shard_activations: bool = False
    data_axis: str | tuple[str, ...] = "data"
    model_axis: str | tuple[str, ...] = "model"

    def __post_init__(self) -> None:
        """Turn lists of axis names into tuples, and refuse sizes that contradict each other."""
        for field in ("data_axis", "model_axis"):
            axis = getattr(self, field)
            object.__setattr__(self, field, axis if isinstance(axis, str) else tuple(axis))
        if self.num_q_heads % self.num_kv_heads:
            raise ValueError(f"num_q_heads {self.num_q_heads} is no multiple of num_kv_heads {self.num_kv_heads}")
        if self.key_size % 2:
            raise ValueError(f"key_size {self.key_size} is odd: RoPE rotates its two halves")
        if not self.dense and not 1 <= self.num_selected_experts <= self.num_experts:
            raise ValueError(
                f"num_selected_experts {self.num_selected_experts} is not in 1..num_experts {self.num_experts}"
            )

    @property
    def dense(self) -> bool:
        """Whether the feed-forward block has no experts and no router (SPEC §2)."""
        return self.num_experts <= 1

    @property
    def ffn_size(self) -> int:
        """The hidden width f of an expert, or of the dense block."""
        return ffn_size(self.emb_size, self.widening_factor)

    def get_memory_sharding(self) -> Memory:
        """Return the published PartitionSpecs of the KV cache (SPEC §5).

        Published behaviour, returned unchanged (SPEC §9): `model_axis` stands on the sequence axis although the
        runtime shards the KV heads.
        """
        cache: Any = PartitionSpec(self.data_axis, self.model_axis)
        step: Any = PartitionSpec(self.data_axis)
        layer = KVMemory(k=cache, v=cache, step=step)
        return Memory(layers=[layer] * self.num_layers)


@dataclass(frozen=True, kw_only=True)
class LanguageModelConfig:
    """The model's configuration (SPEC §1).

    `sequence_len` is the length of the KV cache when sampling. `fprop_dtype`, bfloat16 or float32, is the dtype of the
    residual stream; anything that names a dtype is accepted. Raises ValueError for another dtype.
    """

    model: TransformerConfig
    vocab_size: int
    pad_token: int
    eos_token: int
    sequence_len: int
    embedding_multiplier_scale: float = 1.0
    output_multiplier_scale: float = 1.0
    fprop_dtype: Any = jnp.bfloat16

    def __post_init__(self) -> None:
        """Turn `fprop_dtype` into a NumPy dtype, so that equal configurations are equal keys."""
        dtype = np.dtype(jnp.dtype(self.fprop_dtype))
        if dtype not in (jnp.bfloat16, jnp.float32):
            raise ValueError(f"fprop_dtype {dtype.name} is not supported: use bfloat16 or float32")
        object.__setattr__(self, "fprop_dtype", dtype)


GROK_1 = LanguageModelConfig(
    vocab_size=128 * 1024,
    pad_token=0,
    eos_token=2,
    sequence_len=8192,
    embedding_multiplier_scale=78.38367176906169,
    output_multiplier_scale=0.5773502691896257,
    model=TransformerConfig(
        emb_size=48 * 128,
        widening_factor=8,
        key_size=128,
        num_q_heads=48,
        num_kv_heads=8,
        num_layers=64,
        attn_output_multiplier=0.08838834764831845,
        shard_activations=True,
        num_experts=8,
        num_selected_experts=2,
    ),
)
"""The published model: 314 billion parameters."""

BENCH = LanguageModelConfig(
    vocab_size=8192,
    pad_token=0,
    eos_token=2,
    sequence_len=512,
    embedding_multiplier_scale=GROK_1.embedding_multiplier_scale,
    output_multiplier_scale=GROK_1.output_multiplier_scale,
    model=TransformerConfig(
        emb_size=1024,
        widening_factor=8,
        key_size=64,
        num_q_heads=16,
        num_kv_heads=4,
        num_layers=4,
        attn_output_multiplier=0.125,
        shard_activations=True,
        num_experts=8,
        num_selected_experts=2,
    ),
)
"""The model of the benchmarks: a few seconds on two cores."""

SMALL = LanguageModelConfig(
    vocab_size=384,
    pad_token=0,
    eos_token=2,
    sequence_len=40,
    embedding_multiplier_scale=GROK_1.embedding_multiplier_scale,
    output_multiplier_scale=GROK_1.output_multiplier_scale,
    model=TransformerConfig(
        emb_size=96,
        widening_factor=4,
        key_size=10,
        num_q_heads=8,
        num_kv_heads=4,
        num_layers=3,
        attn_output_multiplier=0.31622776601683794,
        shard_activations=True,
        num_experts=6,
        num_selected_experts=3,
    ),
)
"""A model for first steps: no two axes of a tensor have the same size, and eight model shards fit."""

PRESETS: Mapping[str, LanguageModelConfig] = {"grok-1": GROK_1, "bench": BENCH, "small": SMALL}
"""The configurations by the names used on command lines."""
