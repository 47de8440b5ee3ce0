"""Writes stored Grok-1 weights as the GGUF file that llama.cpp's architecture `grok` reads."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig, Weights

ROPE_BASE = 10000.0
NORM_EPSILON = 1e-5
LOGIT_CAP = 30.0

MODEL_TENSORS = {
    "token_embd": "language_model/in_out_embed/embeddings",
    "output_norm": "language_model/rms_norm/scale",
}
LAYER_TENSORS = {
    "attn_norm": "rms_norm/scale",
    "attn_q": "multi_head_attention/query/w",
    "attn_k": "multi_head_attention/key/w",
    "attn_v": "multi_head_attention/value/w",
    "attn_output": "multi_head_attention/linear/w",
    "attn_output_norm": "rms_norm_1/scale",
    "ffn_norm": "rms_norm_2/scale",
    "ffn_gate_inp": "router/w",
    "ffn_gate_exps": "moe/linear/w",
    "ffn_up_exps": "moe/linear_v/w",
    "ffn_down_exps": "moe/linear_1/w",
    "layer_output_norm": "rms_norm_3/scale",
}
"""GGUF name -> stored name below the layer's module (SPEC §2). The output matrix is the embedding: it has no tensor."""

KEPT_FLOAT32 = ("_norm", "ffn_gate_inp")
"""Names, or their ends, of what stays float32 whatever the compute dtype: norms and the router."""


def write_gguf(path: Path, config: LanguageModelConfig, weights: Weights) -> None:
    """Write a GGUF file; matrices are kept in the configuration's fprop_dtype, float32 or bfloat16."""
    writer = gguf.GGUFWriter(path, "grok")
    write_hyperparameters(writer, config)
    names = {f"{name}.weight": stored for name, stored in MODEL_TENSORS.items()}
    for layer in range(config.model.num_layers):
        module = f"transformer/decoder_layer_{layer}"
        names |= {f"blk.{layer}.{name}.weight": f"{module}/{stored}" for name, stored in LAYER_TENSORS.items()}
    for name, stored in names.items():
        matrix = dequantized(weights, stored)
        if stored.endswith("/w"):
            matrix = np.swapaxes(matrix, -1, -2)  # [.., out, in]
        wide = config.fprop_dtype == "float32" or name.removesuffix(".weight").endswith(KEPT_FLOAT32)
        kind = gguf.GGMLQuantizationType.F32 if wide else gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(np.ascontiguousarray(matrix), kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def write_hyperparameters(writer: gguf.GGUFWriter, config: LanguageModelConfig) -> None:
    """Write a configuration under GGUF's names; no tokenizer."""
    model, sizes = config.model, config.axis_sizes
    writer.add_block_count(model.num_layers)
    writer.add_context_length(config.sequence_len)
    writer.add_embedding_length(model.emb_size)
    writer.add_feed_forward_length(sizes["f"])
    writer.add_head_count(model.num_q_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_layer_norm_rms_eps(NORM_EPSILON)
    writer.add_expert_count(model.num_experts)
    writer.add_expert_used_count(model.num_selected_experts)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_rope_dimension_count(model.key_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_scale(config.embedding_multiplier_scale)
    writer.add_logit_scale(config.output_multiplier_scale)
    writer.add_attn_output_scale(model.attn_output_multiplier)
    writer.add_attn_logit_softcapping(LOGIT_CAP)
    writer.add_tokenizer_model("none")


def dequantized(weights: Weights, name: str) -> Array:
    """Return a stored weight in float32: plain, or int8 times the scales of its contiguous groups of rows (SPEC §3).

    int8 times a bf16 scale has 15 significant bits: the product is exact here, and is rounded where bf16 is written.
    """
    if name in weights:
        return np.asarray(weights[name], np.float32)
    weight, scales = weights[f"{name}.weight"], weights[f"{name}.scales"].astype(np.float32)
    return weight.astype(np.float32) * np.repeat(scales, weight.shape[-2] // scales.shape[-2], axis=-2)
