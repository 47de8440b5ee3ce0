"""What the release of Grok-1 publishes: its configuration, its constants, and the names of its stored weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from grok_conformance.harness.contract.configuration import LanguageModelConfig, TransformerConfig

PUBLISHED = LanguageModelConfig(
    model=TransformerConfig(
        emb_size=6144,
        widening_factor=8.0,
        key_size=128,
        num_q_heads=48,
        num_kv_heads=8,
        num_layers=64,
        attn_output_multiplier=0.08838834764831845,
        num_experts=8,
        num_selected_experts=2,
    ),
    vocab_size=131072,
    pad_token=0,
    eos_token=2,
    sequence_len=8192,
    embedding_multiplier_scale=78.38367176906169,
    output_multiplier_scale=0.5773502691896257,
    fprop_dtype="bfloat16",
)
"""The published configuration (SPEC §1)."""

EPSILON, ROPE_BASE, LOGIT_CAP = 1e-5, 10000.0, 30.0
"""Constants of the model that no configuration holds (SPEC §4)."""


@dataclass(frozen=True)
class StoredWeight:
    """A stored parameter: its axes, what it is, and the mesh axes over which each of its own is published (SPEC §7).

    Axes have the letters of SPEC, `(q h)` for a product of two. A `matrix` is rounded to the compute dtype, the
    `table` of embeddings where its rows are read; an `expert` matrix stays in the dtype of its scales, and a `gain` or
    the `router` in float32 (SPEC §3, §4.6).
    """

    axes: tuple[str, ...]
    kind: Literal["table", "gain", "matrix", "router", "expert"]
    sharding: tuple[str | list[str] | None, ...]


LAYER = "transformer/decoder_layer_{layer}/"
"""The module path of a layer."""

EMBEDDINGS, LAST_GAIN = "language_model/in_out_embed/embeddings", "language_model/rms_norm/scale"
GAINS = ("rms_norm/scale", "rms_norm_1/scale", "rms_norm_2/scale", "rms_norm_3/scale")
QUERY, KEY, VALUE = (f"multi_head_attention/{name}/w" for name in ("query", "key", "value"))
ATTENTION_OUT = "multi_head_attention/linear/w"
ROUTER = "router/w"
EXPERT_ACTIVATION, EXPERT_UP, EXPERT_OUT = EXPERTS = ("moe/linear/w", "moe/linear_v/w", "moe/linear_1/w")
DENSE_ACTIVATION, DENSE_UP, DENSE_OUT = DENSE = ("linear/w", "linear_v/w", "linear_1/w")

OF_THE_MODEL: Mapping[str, StoredWeight] = {
    EMBEDDINGS: StoredWeight(("v", "d"), "table", (None, ["data", "model"])),
    LAST_GAIN: StoredWeight(("d",), "gain", (None,)),
}
"""The weights that no layer has, by stored name (SPEC §2)."""

OF_A_LAYER: Mapping[str, StoredWeight] = {
    **{name: StoredWeight(("d",), "gain", (None,)) for name in GAINS},
    QUERY: StoredWeight(("d", "(q h)"), "matrix", ("data", "model")),
    KEY: StoredWeight(("d", "(g h)"), "matrix", ("data", "model")),
    VALUE: StoredWeight(("d", "(g h)"), "matrix", ("data", "model")),
    ATTENTION_OUT: StoredWeight(("(q h)", "d"), "matrix", ("model", "data")),
    ROUTER: StoredWeight(("d", "e"), "router", ("data",)),
    EXPERT_ACTIVATION: StoredWeight(("e", "d", "f"), "expert", (None, "data", "model")),
    EXPERT_UP: StoredWeight(("e", "d", "f"), "expert", (None, "data", "model")),
    EXPERT_OUT: StoredWeight(("e", "f", "d"), "expert", (None, "model", "data")),
    DENSE_ACTIVATION: StoredWeight(("d", "f"), "matrix", ("data", "model")),
    DENSE_UP: StoredWeight(("d", "f"), "matrix", ("data", "model")),
    DENSE_OUT: StoredWeight(("f", "d"), "matrix", ("model", "data")),
}
"""The weights of a layer, by stored name below its module path (SPEC §2)."""
