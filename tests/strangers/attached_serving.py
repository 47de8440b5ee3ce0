"""An adapter of the serving-style model: what is fused, sharded, split in two streams and ragged is undone by the map.

With GELU=erf in its environment it is a broken port, so that the tests see the map hide nothing.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Collection, Mapping

import numpy as np
import torch

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.contract.attach import attach
from grok_conformance.harness.contract.tap_map import TapSource, engine_names, map_taps, shown_taps
from grok_conformance.harness.contract.tap_sources import part, ragged, shards, total
from tests.strangers import serving_style
from tests.strangers.attached import dequantized

RANKS = serving_style.RANKS
QKV = ("q h", "g h", "g h")
rows = functools.partial(ragged, offsets="cu_seqlens")


def projection(index: int) -> TapSource:
    name, axes = (("query", "b t (q h)"), ("key", "b t (g h)"), ("value", "b t (g h)"))[index]
    fused = part("layers.{layer}.attn.qkv_proj.{rank}", QKV, index)
    return TapSource(f"layers.*.attention.{name}", rows(shards(fused, RANKS)), axes)


TAP_MAP = (
    TapSource("embedding", rows("embedding"), "b t d"),
    TapSource("layers.*.attention.norm", rows("layers.{layer}.norms.0"), "b t d"),
    *map(projection, range(3)),
    TapSource("layers.*.attention.heads", rows(shards("layers.{layer}.attn.o_proj.{rank}(0)", RANKS)), "b t (q h)"),
    TapSource(
        "layers.*.attention.output",
        rows(total(*(f"layers.{{layer}}.attn.o_proj.{rank}" for rank in range(RANKS)))),
        "b t d",
    ),
    TapSource("layers.*.router.logits", rows("layers.{layer}.moe[1]"), "b t e"),
    TapSource("layers.*.moe.output", rows("layers.{layer}.moe[0]"), "b t d"),
    TapSource("layers.*.output", rows(total("layers.{layer}[0]", "layers.{layer}[1]")), "b t d"),
    TapSource("logits", rows("logits"), "b t v", padded="v"),
)
INFO = CandidateInfo(name="attached_serving", version="1", taps=shown_taps(TAP_MAP), fprop_dtypes=("float32",))


class Attached:
    def __init__(self, config: LanguageModelConfig, model: torch.nn.Module) -> None:
        self.config, self.model = config, model
        self.record = attach(model, [name for name in engine_names(TAP_MAP) if name.startswith("layers.")])
        self.first = attach(model, ["layers.0(0)"])

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        if (tokens[np.arange(tokens.shape[1]) < lengths[:, None]] == self.config.pad_token).any():
            raise Unsupported("no pads between tokens")
        ends = np.concatenate([[0], np.cumsum(lengths)])
        ids = tokens[np.arange(tokens.shape[1]) < lengths[:, None]]
        with self.record() as recorded, self.first() as first, torch.no_grad():
            logits = self.model(torch.tensor(ids), ends.tolist()).numpy()
        own = {"embedding": first["layers.0(0)"], "logits": logits, "cu_seqlens": ends}
        return map_taps(TAP_MAP, self.config, tokens, taps, {**recorded, **own})


def load(config: LanguageModelConfig, weights: Weights) -> Attached:
    sizes, m = config.axis_sizes, config.model
    if config.dense or sizes["g"] % RANKS or sizes["q"] % RANKS:
        raise Unsupported("needs experts, and heads for two ranks")
    model = serving_style.ServingModel(
        {
            "hidden_size": sizes["d"], "heads": sizes["q"], "kv_heads": sizes["g"], "head_dim": sizes["h"],
            "intermediate_size": sizes["f"], "experts": sizes["e"], "top_k": sizes["c"], "layers": m.num_layers,
            "vocab_size": sizes["v"], "attn_output_multiplier": m.attn_output_multiplier,
            "embedding_multiplier_scale": config.embedding_multiplier_scale,
            "output_multiplier_scale": config.output_multiplier_scale,
        }
    )  # fmt: skip
    state = {
        "embed_tokens.weight": weights["language_model/in_out_embed/embeddings"],
        "norm.weight": weights["language_model/rms_norm/scale"],
    }
    for layer in range(m.num_layers):
        below, own = f"transformer/decoder_layer_{layer}/", f"layers.{layer}."
        for i, norm in enumerate(("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3")):
            state[f"{own}norms.{i}.weight"] = weights[f"{below}{norm}/scale"]
        q, k, v, o = (
            dequantized(weights, f"{below}multi_head_attention/{name}/w")
            for name in ("query", "key", "value", "linear")
        )
        for rank in range(RANKS):
            columns = [np.split(x, RANKS, -1)[rank] for x in (q, k, v)]
            state[f"{own}attn.qkv_proj.{rank}.weight"] = np.concatenate(columns, -1).T
            state[f"{own}attn.o_proj.{rank}.weight"] = np.split(o, RANKS)[rank].T
        state[f"{own}moe.gate.weight"] = dequantized(weights, f"{below}router/w").T
        for name in ("linear", "linear_v", "linear_1"):
            for expert, matrix in enumerate(dequantized(weights, f"{below}moe/{name}/w")):
                state[f"{own}moe.experts.{expert}.{name}.weight"] = matrix.T
    model.load_state_dict({name: torch.tensor(np.ascontiguousarray(x)) for name, x in state.items()})
    if os.environ.get("GELU") == "erf":
        gelu = torch.nn.functional.gelu
        torch.nn.functional.gelu = lambda x, **_: gelu(x)
    return Attached(config, model)
