"""The canonical sharded Grok-1 in JAX and haiku: `SPEC.md` made executable. It knows nothing of the harness.

A name is imported when it is first asked for: the command line says its `--help` without JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grok_conformance.reference.attention import MHABlock, MHAOutput, MultiHeadAttention, make_attention_mask
    from grok_conformance.reference.config import GROK_1, PRESETS, LanguageModelConfig, TransformerConfig, ffn_size
    from grok_conformance.reference.inference import apply, apply_with_taps, init, init_memory
    from grok_conformance.reference.layers import InOutEmbed, Linear, RMSNorm, RotaryEmbedding, rotate_half
    from grok_conformance.reference.memory import KVMemory, Memory, init_layer_memories
    from grok_conformance.reference.model import (
        DecoderLayer,
        DecoderOutput,
        LanguageModel,
        LanguageModelOutput,
        Transformer,
        TransformerOutput,
    )
    from grok_conformance.reference.moe import DenseBlock, MoELayer
    from grok_conformance.reference.parameters import Params, TrainingState, quantize_params
    from grok_conformance.reference.partitioning import (
        LM_PARTITION_RULES,
        TRANSFORMER_PARTITION_RULES,
        apply_rules,
        cast_bfloat16,
        make_mesh,
        match,
        partition_specs,
        with_sharding_constraint,
    )
    from grok_conformance.reference.quantization import QuantizedWeight8bit, dequantize, quantize
    from grok_conformance.reference.router import Router
    from grok_conformance.reference.runner import InferenceRunner, ModelRunner, Request, pad_to_size
    from grok_conformance.reference.sampling import SampleOutput, SampleSettings, sample_token, top_p_filter
    from grok_conformance.reference.slow_experts import moe_slow_matmul1, moe_slow_matmul2
    from grok_conformance.reference.steps import insert_slice

__all__ = [
    "GROK_1",
    "LM_PARTITION_RULES",
    "PRESETS",
    "TRANSFORMER_PARTITION_RULES",
    "DecoderLayer",
    "DecoderOutput",
    "DenseBlock",
    "InOutEmbed",
    "InferenceRunner",
    "KVMemory",
    "LanguageModel",
    "LanguageModelConfig",
    "LanguageModelOutput",
    "Linear",
    "MHABlock",
    "MHAOutput",
    "Memory",
    "MoELayer",
    "ModelRunner",
    "MultiHeadAttention",
    "Params",
    "QuantizedWeight8bit",
    "RMSNorm",
    "Request",
    "RotaryEmbedding",
    "Router",
    "SampleOutput",
    "SampleSettings",
    "TrainingState",
    "Transformer",
    "TransformerConfig",
    "TransformerOutput",
    "apply",
    "apply_rules",
    "apply_with_taps",
    "cast_bfloat16",
    "dequantize",
    "ffn_size",
    "init",
    "init_layer_memories",
    "init_memory",
    "insert_slice",
    "make_attention_mask",
    "make_mesh",
    "match",
    "moe_slow_matmul1",
    "moe_slow_matmul2",
    "pad_to_size",
    "partition_specs",
    "quantize",
    "quantize_params",
    "rotate_half",
    "sample_token",
    "top_p_filter",
    "with_sharding_constraint",
]

MODULES = (
    "attention",
    "config",
    "inference",
    "layers",
    "memory",
    "model",
    "moe",
    "parameters",
    "partitioning",
    "quantization",
    "router",
    "runner",
    "sampling",
    "slow_experts",
    "steps",
)
"""Where the names are."""


def __getattr__(name: str) -> Any:
    """Return an exported name, imported with the modules before its own."""
    for module in MODULES if name in __all__ else ():
        found = vars(importlib.import_module(f"grok_conformance.reference.{module}"))
        if name in found:
            globals()[name] = found[name]
            return found[name]
    raise AttributeError(f"module 'reference' has no attribute {name!r}")
