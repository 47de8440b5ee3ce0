"""amdsharktank's paged Grok in eager PyTorch: an engine that nobody here wrote, seen through hooks on its modules.

It loads a GGUF file by its own reader; one page of its cache holds a whole row. What it does otherwise than the
published model stands in `deviations.toml`. In bfloat16 its router, gates and multiplier round otherwise too, which no
deviation tells yet: only float32 is judged.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from amdsharktank.layers.configs.llm_configs import LlamaHParams, LlamaModelConfig
from amdsharktank.models.llm import PagedLlmModelV1
from amdsharktank.types import unbox_tensor
from amdsharktank.types.gguf_interop import load_file

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.contract.attach import attach, to_numpy
from grok_conformance.harness.contract.gguf_file import write_gguf
from grok_conformance.harness.contract.tap_map import TapSource, engine_names, map_taps, shown_taps

MODULES = (
    TapSource("embedding", "attn_blocks.0(0)", "b t d"),
    TapSource("layers.*.attention.norm", "attn_blocks.{layer}.attn.attn_norm", "b t d"),
    TapSource("layers.*.attention.query", "attn_blocks.{layer}.attn.attn_q", "b t (q h)"),
    TapSource("layers.*.attention.key", "attn_blocks.{layer}.attn.attn_k", "b t (g h)"),
    TapSource("layers.*.attention.value", "attn_blocks.{layer}.attn.attn_v", "b t (g h)"),
    TapSource("layers.*.attention.heads", "attn_blocks.{layer}.attn.attn_output(0)", "b t (q h)"),
    TapSource("layers.*.attention.output", "attn_blocks.{layer}.attn.attn_output", "b t d"),
    TapSource("layers.*.attention.output_norm", "attn_blocks.{layer}.attn.attn_output_norm", "b t d"),
    TapSource("layers.*.attention.residual", "attn_blocks.{layer}.attn", "b t d"),
    TapSource("layers.*.moe.norm", "attn_blocks.{layer}.ffn_norm", "b t d"),
    TapSource("layers.*.router.logits", "attn_blocks.{layer}.ffn.ffn_gate_inp", "(b t) e"),
    TapSource("layers.*.moe.expert_index", "attn_blocks.{layer}.ffn.routed_experts(1)", "(b t) c"),
    TapSource("layers.*.moe.expert_gate", "attn_blocks.{layer}.ffn.routed_experts(2)", "(b t) c"),
    TapSource("layers.*.moe.output", "attn_blocks.{layer}.ffn.layer_output_norm(0)", "b t d"),
    TapSource("layers.*.moe.output_norm", "attn_blocks.{layer}.ffn", "b t d"),
    TapSource("layers.*.output", "attn_blocks.{layer}", "b t d"),
    TapSource("final_norm", "output_norm", "b t d"),
)
STATE = (
    TapSource("layers.*.kv.keys", "keys.{layer}", "b g s h"),
    TapSource("layers.*.kv.values", "values.{layer}", "b g s h"),
    TapSource("logits", "logits", "b t v"),
)
INFO = CandidateInfo(name="amdsharktank", version="3.9.0", taps=shown_taps(MODULES + STATE), fprop_dtypes=("float32",))


class PagedModel:
    """The engine's model, the pages of its cache, and how many tokens every row holds."""

    def __init__(self, config: LanguageModelConfig, model: Any) -> None:
        """Attach to the model's modules."""
        self.config, self.model, self.record = config, model, attach(model, engine_names(MODULES))

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run prompts from fresh pages."""
        self.steps, self.cache = np.zeros(len(tokens), np.int64), self.model.cache.allocate(len(tokens))
        pages = np.pad(tokens, ((0, 0), (0, self.config.sequence_len - tokens.shape[1])))
        made = self._run(self.model.prefill, pages, lengths, taps)
        return {tap: x if ".kv." in tap else x[:, : tokens.shape[1]] for tap, x in made.items()}

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run one more token per row."""
        begin = torch.tensor(self.steps)
        return self._run(self.model.decode, tokens, 1, taps, start_positions=begin)

    def _run(self, call: Any, tokens: Array, new: Array | int, taps: Collection[str], **begin: Any) -> dict[str, Array]:
        self.steps = self.steps + new
        given = {"seq_block_ids": torch.arange(len(tokens))[:, None], "cache_state": self.cache, **begin}
        with self.record() as recorded, torch.no_grad():
            logits = call(torch.tensor(tokens, dtype=torch.int64), seq_lens=torch.tensor(self.steps), **given)
        table = to_numpy(unbox_tensor(self.model.cache.unflatten_page_table(self.cache)))  # [page, layer, 2, g, s, h]
        seen = {**recorded, "logits": to_numpy(logits)}
        for layer in range(self.config.model.num_layers):
            seen |= {f"keys.{layer}": table[:, layer, 0], f"values.{layer}": table[:, layer, 1]}
        return map_taps(MODULES + STATE, self.config, tokens, taps, seen)


def load(config: LanguageModelConfig, weights: Weights) -> PagedModel:
    """Load stored weights; raises Unsupported for what the engine's Grok cannot express."""
    model, dtype = config.model, getattr(torch, config.fprop_dtype)
    if config.dense:
        raise Unsupported("only mixtures of experts")
    with tempfile.TemporaryDirectory() as folder:
        write_gguf(Path(folder) / "grok.gguf", config, weights, config.fprop_dtype)
        data = load_file(Path(folder) / "grok.gguf")
    data.root_theta.tree["output"] = data.root_theta.tree["token_embd"]
    sizes = replace(
        LlamaHParams.from_gguf_props(data.properties), n_dense_layers=0, rope_interleave_emb=False,
        attn_head_dim=model.key_size, attention_scale=model.attn_output_multiplier,
    )  # fmt: skip
    kinds = {"activation_dtype": dtype, "attention_dtype": dtype}
    return PagedModel(config, PagedLlmModelV1(data.root_theta, LlamaModelConfig(sizes, config.sequence_len, **kinds)))
