"""An adapter that attaches to the transformers-style module, which knows nothing of it and has no cache."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.contract.attach import attach
from grok_conformance.harness.contract.tap_map import TapSource, engine_names, map_taps, shown_taps
from tests.strangers.transformers_style import Grok1ForCausalLM

# The attachment: what the module calls things, and in which layout.
TAP_MAP = (
    TapSource("embedding", "layers.0(0)", "b t d"),
    TapSource("layers.*.attention.norm", "layers.{layer}.pre_attn_norm", "b t d"),
    TapSource("layers.*.attention.query", "layers.{layer}.self_attn.q_proj", "b t (q h)"),
    TapSource("layers.*.attention.key", "layers.{layer}.self_attn.k_proj", "b t (g h)"),
    TapSource("layers.*.attention.value", "layers.{layer}.self_attn.v_proj", "b t (g h)"),
    TapSource("layers.*.attention.heads", "layers.{layer}.self_attn.o_proj(0)", "b t (q h)"),
    TapSource("layers.*.attention.output", "layers.{layer}.self_attn[0]", "b t d"),
    TapSource("layers.*.router.logits", "layers.{layer}.block_sparse_moe[1]", "b t e"),
    TapSource("layers.*.moe.output", "layers.{layer}.block_sparse_moe[0]", "b t d"),
    TapSource("layers.*.output", "layers.{layer}[0]", "b t d"),
    TapSource("final_norm", "model.norm", "b t d"),
    TapSource("logits", "[logits]", "b t v"),
)
INFO = CandidateInfo(name="attached", version="1", taps=shown_taps(TAP_MAP), fprop_dtypes=("float32",))


class Attached:
    def __init__(self, config: LanguageModelConfig, module: torch.nn.Module) -> None:
        self.config, self.module = config, module
        self.record = attach(module, engine_names(TAP_MAP))

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        del lengths  # pads are token 0, as the module's mask knows
        with self.record() as recorded, torch.no_grad():
            self.module(torch.tensor(tokens), torch.tensor(tokens) > 0)
        return map_taps(TAP_MAP, self.config, tokens, taps, recorded)


# The module with its weights.
LAYER = {
    "pre_attn_norm.weight": "rms_norm/scale",
    "post_attn_norm.weight": "rms_norm_1/scale",
    "pre_moe_norm.weight": "rms_norm_2/scale",
    "post_moe_norm.weight": "rms_norm_3/scale",
    "self_attn.q_proj.weight": "multi_head_attention/query/w",
    "self_attn.k_proj.weight": "multi_head_attention/key/w",
    "self_attn.v_proj.weight": "multi_head_attention/value/w",
    "self_attn.o_proj.weight": "multi_head_attention/linear/w",
    "block_sparse_moe.gate.weight": "router/w",
}


def module_of(config: LanguageModelConfig, weights: Weights) -> Grok1ForCausalLM:
    sizes, m = config.axis_sizes, config.model
    module = Grok1ForCausalLM(
        {
            "hidden_size": sizes["d"], "num_attention_heads": sizes["q"], "num_key_value_heads": sizes["g"],
            "head_dim": sizes["h"], "intermediate_size": sizes["f"], "num_local_experts": sizes["e"],
            "num_experts_per_tok": sizes["c"], "num_hidden_layers": m.num_layers, "vocab_size": sizes["v"],
            "attn_output_multiplier": m.attn_output_multiplier,
            "embedding_multiplier_scale": config.embedding_multiplier_scale,
            "output_multiplier_scale": config.output_multiplier_scale,
        }
    )  # fmt: skip
    embeddings = weights["language_model/in_out_embed/embeddings"]
    state = {
        "model.embed_tokens.weight": embeddings,
        "lm_head.weight": embeddings,
        "model.norm.weight": weights["language_model/rms_norm/scale"],
    }
    for layer in range(m.num_layers):
        below = f"transformer/decoder_layer_{layer}/"
        state |= {f"model.layers.{layer}.{own}": dequantized(weights, below + name).T for own, name in LAYER.items()}
        for expert in range(sizes["e"]):
            for part in ("linear", "linear_v", "linear_1"):
                matrix = dequantized(weights, f"{below}moe/{part}/w")[expert].T
                state[f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{part}.weight"] = matrix
    module.load_state_dict({name: torch.tensor(np.ascontiguousarray(x)) for name, x in state.items()})
    return module


def dequantized(weights: Weights, name: str) -> Array:
    if name in weights:
        return np.asarray(weights[name], np.float32)
    weight, scales = (np.asarray(weights[f"{name}.{part}"], np.float32) for part in ("weight", "scales"))
    return weight * np.repeat(scales, weight.shape[-2] // scales.shape[-2], axis=-2)


def load(config: LanguageModelConfig, weights: Weights) -> Attached:
    if config.dense:
        raise Unsupported("no dense block")
    return Attached(config, module_of(config, weights))
