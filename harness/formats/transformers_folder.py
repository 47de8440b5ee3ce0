"""A preset as a transformers-style folder: config.json, model.safetensors under the names of the PyTorch port.

The names are those that vLLM's and other loaders read: `model.layers.N.moe_block.experts.E.linear_v.weight`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig, Weights, grok_1
from grok_conformance.harness.contract.gguf_file import dequantized
from grok_conformance.harness.contract.grok_1 import EPSILON, LOGIT_CAP, ROPE_BASE
from grok_conformance.harness.formats.files import write_json
from grok_conformance.harness.formats.tensors import write_tensors

LAYER = {
    "pre_attn_norm.scale": grok_1.GAINS[0],
    "post_attn_norm.scale": grok_1.GAINS[1],
    "pre_moe_norm.scale": grok_1.GAINS[2],
    "post_moe_norm.scale": grok_1.GAINS[3],
    "attn.q_proj.weight": grok_1.QUERY,
    "attn.k_proj.weight": grok_1.KEY,
    "attn.v_proj.weight": grok_1.VALUE,
    "attn.o_proj.weight": grok_1.ATTENTION_OUT,
    "moe_block.gate.weight": grok_1.ROUTER,
}
"""The port's name below a layer -> the stored name below the layer's module."""

EXPERT = {"linear": grok_1.EXPERT_ACTIVATION, "linear_v": grok_1.EXPERT_UP, "linear_1": grok_1.EXPERT_OUT}
"""The port's name of an expert's matrix -> the stored name of all experts'."""


def write_transformers(folder: Path, config: LanguageModelConfig, weights: Weights, precision: str) -> None:
    """Write a folder that `from_pretrained` of the port reads; norms and the router stay float32."""
    folder.mkdir(parents=True)
    write_json(folder / "config.json", configuration(config, precision))
    write_tensors(folder / "model.safetensors", named_weights(config, weights, precision))


def named_weights(config: LanguageModelConfig, weights: Weights, precision: str) -> dict[str, Array]:
    """Return the weights under the port's names, matrices as [out, in], in a precision, float32 or bfloat16."""
    narrow = DTYPES[precision]
    embeddings = np.asarray(weights[grok_1.EMBEDDINGS], np.float32).astype(narrow)
    named = {
        "model.embed_tokens.weight": embeddings,
        "lm_head.weight": embeddings,
        "model.norm.scale": np.asarray(weights[grok_1.LAST_GAIN], np.float32),
    }
    for layer in range(config.model.num_layers):
        below, own = grok_1.LAYER.format(layer=layer), f"model.layers.{layer}."
        for name, stored in LAYER.items():
            x = dequantized(weights, below + stored)
            kept = grok_1.OF_A_LAYER[stored].kind in ("gain", "router")
            named[own + name] = np.ascontiguousarray(x.T) if kept else np.ascontiguousarray(x.T).astype(narrow)
        for part, stored in EXPERT.items():
            for expert, x in enumerate(dequantized(weights, below + stored)):
                named[f"{own}moe_block.experts.{expert}.{part}.weight"] = np.ascontiguousarray(x.T).astype(narrow)
    return named


def configuration(config: LanguageModelConfig, precision: str) -> dict[str, object]:
    """Return the port's config.json."""
    model = config.model
    return {
        "architectures": ["Grok1ModelForCausalLM"],
        "model_type": "grok-1",
        "vocab_size": config.vocab_size,
        "hidden_size": model.emb_size,
        "intermediate_size": config.axis_sizes["f"],
        "num_hidden_layers": model.num_layers,
        "num_attention_heads": model.num_q_heads,
        "num_key_value_heads": model.num_kv_heads,
        "num_experts": model.num_experts,
        "num_experts_per_tok": model.num_selected_experts,
        "attn_output_multiplier": model.attn_output_multiplier,
        "embedding_multiplier_scale": config.embedding_multiplier_scale,
        "output_multiplier_scale": config.output_multiplier_scale,
        "max_attn_value": LOGIT_CAP,
        "max_position_embeddings": config.sequence_len,
        "rms_norm_eps": EPSILON,
        "rope_theta": ROPE_BASE,
        "pad_token_id": config.pad_token,
        "bos_token_id": 1,
        "eos_token_id": config.eos_token,
        "tie_word_embeddings": True,
        "torch_dtype": precision,
    }
