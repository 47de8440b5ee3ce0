"""Weights as a GGUF file, for engines that load one, in llama.cpp's architecture `grok`: float32, bfloat16 or Q8_0."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.contract import grok_1
from grok_conformance.harness.contract.candidate import DTYPES, Array, Weights
from grok_conformance.harness.contract.configuration import LanguageModelConfig
from grok_conformance.harness.contract.grok_1 import EPSILON, LOGIT_CAP, ROPE_BASE

TENSORS = {
    "token_embd": grok_1.EMBEDDINGS,
    "output_norm": grok_1.LAST_GAIN,
    "blk.{}.attn_norm": grok_1.GAINS[0],
    "blk.{}.attn_q": grok_1.QUERY,
    "blk.{}.attn_k": grok_1.KEY,
    "blk.{}.attn_v": grok_1.VALUE,
    "blk.{}.attn_output": grok_1.ATTENTION_OUT,
    "blk.{}.attn_output_norm": grok_1.GAINS[1],
    "blk.{}.ffn_norm": grok_1.GAINS[2],
    "blk.{}.ffn_gate_inp": grok_1.ROUTER,
    "blk.{}.ffn_gate_exps": grok_1.EXPERT_ACTIVATION,
    "blk.{}.ffn_up_exps": grok_1.EXPERT_UP,
    "blk.{}.ffn_down_exps": grok_1.EXPERT_OUT,
    "blk.{}.layer_output_norm": grok_1.GAINS[3],
}
"""The engine's name by layer -> the stored name below the layer's module; the output matrix is the embedding."""

PRECISIONS = ("float32", "bfloat16", "q8_0")
NORMAL, UNKNOWN, CONTROL = 1, 2, 3


def dequantized(weights: Weights, name: str) -> Array:
    """Return a stored weight in float32: plain, or int8 times the scales of its groups of rows (SPEC §3)."""
    if name in weights:
        return np.asarray(weights[name], np.float32)
    weight, scales = (np.asarray(weights[f"{name}.{part}"], np.float32) for part in ("weight", "scales"))
    product: Array = weight * np.repeat(scales, weight.shape[-2] // scales.shape[-2], axis=-2)
    return product


def write_gguf(path: Path, config: LanguageModelConfig, weights: Weights, precision: str) -> None:
    """Write a GGUF file; norms and the router stay float32, see `kind_of_weight`. Raises ImportError without gguf.

    In memory there is one tensor at a time as it is written, and one expert of it in float32.
    """
    import gguf  # noqa: PLC0415 - an optional extra

    writer = gguf.GGUFWriter(path, "grok")
    write_configuration(writer, config)
    write_tokenizer(writer, config)
    tensors = [
        (
            f"{pattern.format(layer)}.weight",
            ("" if layer is None else grok_1.LAYER.format(layer=layer)) + stored,
            weight,
        )
        for pattern, stored in TENSORS.items()
        for weight in [grok_1.OF_THE_MODEL.get(stored) or grok_1.OF_A_LAYER[stored]]
        for layer in (range(config.model.num_layers) if "{}" in pattern else (None,))
    ]
    for name, stored, weight in tensors:
        shape = written_shape(weights, stored, weight)
        kind = kind_of_weight(weight, precision, shape[-1])
        quantised = kind != gguf.GGMLQuantizationType.F32
        shape, dtype = (gguf.quant_shape_to_byte_shape(shape, kind), "uint8") if quantised else (shape, "float32")
        writer.add_tensor_info(name, shape, np.dtype(dtype), math.prod(shape) * np.dtype(dtype).itemsize, kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, stored, weight in tensors:
        kind = kind_of_weight(weight, precision, written_shape(weights, stored, weight)[-1])
        writer.write_tensor_data(as_written(weights, stored, weight, kind))
    writer.close()


def is_matrix(weight: grok_1.StoredWeight) -> bool:
    """Return whether a weight is written [.., out, in], the other way round than it is stored."""
    return weight.kind not in ("table", "gain")


def written_shape(weights: Weights, name: str, weight: grok_1.StoredWeight) -> tuple[int, ...]:
    """Return the shape in which a stored weight is written."""
    shape = weights[name if name in weights else f"{name}.weight"].shape
    return (*shape[:-2], shape[-1], shape[-2]) if is_matrix(weight) else shape


def as_written(weights: Weights, name: str, weight: grok_1.StoredWeight, kind: Any) -> Array:
    """Return a stored weight as it is written, experts one after the other."""
    import gguf  # noqa: PLC0415 - an optional extra

    def made(part: Weights) -> Array:
        x = dequantized(part, name)
        x = np.swapaxes(x, -1, -2) if is_matrix(weight) else x
        if kind == gguf.GGMLQuantizationType.BF16:  # the same bits, many times faster
            return np.ascontiguousarray(x.astype(DTYPES["bfloat16"])).view(np.uint8)
        return np.asarray(gguf.quants.quantize(np.ascontiguousarray(x), kind))

    own = {part: weights[part] for part in (name, f"{name}.weight", f"{name}.scales") if part in weights}
    if weight.kind != "expert":
        return made(own)
    first = made({part: x[0] for part, x in own.items()})
    whole = np.empty((len(next(iter(own.values()))), *first.shape), first.dtype)
    for expert in range(len(whole)):
        whole[expert] = made({part: x[expert] for part, x in own.items()}) if expert else first
    return whole


def kind_of_weight(weight: grok_1.StoredWeight, precision: str, row_size: int) -> Any:
    """Return GGUF's type of a weight in a precision; rows that are no whole blocks of 8 bits stay in bfloat16.

    llama.cpp's own converter leaves such matrices in 16 bits too.
    """
    import gguf  # noqa: PLC0415 - an optional extra

    wide = precision == "float32" or weight.kind in ("gain", "router")
    kind = gguf.GGMLQuantizationType.F32 if wide else kind_of(precision)
    block, _ = gguf.GGML_QUANT_SIZES[kind]
    return kind_of("bfloat16") if row_size % block else kind


def kind_of(precision: str) -> Any:
    """Return GGUF's type of a precision."""
    import gguf  # noqa: PLC0415 - an optional extra

    kinds = gguf.GGMLQuantizationType
    return kinds.Q8_0 if precision == "q8_0" else kinds.BF16


def write_configuration(writer: Any, config: LanguageModelConfig) -> None:
    """Write a configuration under GGUF's names."""
    model = config.model
    writer.add_block_count(model.num_layers)
    writer.add_context_length(config.sequence_len)
    writer.add_embedding_length(model.emb_size)
    writer.add_feed_forward_length(config.axis_sizes["f"])
    writer.add_head_count(model.num_q_heads)
    writer.add_head_count_kv(model.num_kv_heads)
    writer.add_layer_norm_rms_eps(EPSILON)
    writer.add_expert_count(model.num_experts)
    writer.add_expert_used_count(model.num_selected_experts)
    writer.add_rope_freq_base(ROPE_BASE)
    writer.add_rope_dimension_count(model.key_size)
    writer.add_vocab_size(config.vocab_size)
    writer.add_embedding_scale(config.embedding_multiplier_scale)
    writer.add_logit_scale(config.output_multiplier_scale)
    writer.add_attn_output_scale(model.attn_output_multiplier)
    writer.add_attn_logit_softcapping(LOGIT_CAP)


def write_tokenizer(writer: Any, config: LanguageModelConfig) -> None:
    """Write a tokenizer in which every id has a name of its own: a server needs one, though prompts are ids."""
    names = [f"t{token:x}" for token in range(config.vocab_size)]
    names[:3] = ["<unk>", "<s>", "</s>"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list([name.encode() for name in names])
    writer.add_token_scores([0.0] * len(names))
    writer.add_token_types([UNKNOWN, CONTROL, CONTROL] + [NORMAL] * (len(names) - 3))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(config.eos_token)
    writer.add_add_bos_token(False)  # noqa: FBT003 - the writer's own signature
