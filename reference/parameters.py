"""The parameter tree: paths, shapes and storage (SPEC §2)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp

from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized, quantize

Params = Mapping[str, Mapping[str, Any]]
"""`{module_path: {name: array | QuantizedWeight8bit}}`, as haiku makes it."""

PUBLISHED_NUM_GROUPS = 8
"""Groups of scales G of the row-parallel weights: the published checkpoint was written for 8 model shards."""


class TrainingState(NamedTuple):
    """What the published checkpoint holds, in the order of its leaves: the parameters and nothing else (SPEC §8)."""

    params: hk.Params


def parameter_shapes(
    config: LanguageModelConfig, *, num_groups: int = PUBLISHED_NUM_GROUPS, scales_dtype: Any = jnp.bfloat16
) -> dict[str, dict[str, Any]]:
    """Return the parameter tree with a jax.ShapeDtypeStruct in the place of every array (SPEC §2); allocates nothing.

    Norms, router and embedding are float32, every other weight is a QuantizedWeight8bit: the row-parallel ones
    (attention `linear`, `linear_1`) with `num_groups` groups of scales, the others with one. Paths are in layer order.
    """
    m = config.model
    q_size, kv_size = m.num_q_heads * m.key_size, m.num_kv_heads * m.key_size

    def float32(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    def quantized(*shape: int, groups: int = 1) -> QuantizedWeight8bit:
        *leading, _, num_columns = shape
        scales = jax.ShapeDtypeStruct((*leading, groups, num_columns), scales_dtype)
        return QuantizedWeight8bit(jax.ShapeDtypeStruct(shape, jnp.int8), scales)

    def feed_forward() -> Iterator[tuple[str, str, Any]]:
        block, experts = ("", ()) if m.dense else ("moe/", (m.num_experts,))
        yield block + "linear", "w", quantized(*experts, m.emb_size, m.ffn_size)
        yield block + "linear_1", "w", quantized(*experts, m.ffn_size, m.emb_size, groups=num_groups)
        yield block + "linear_v", "w", quantized(*experts, m.emb_size, m.ffn_size)
        if not m.dense:
            yield "router", "w", float32(m.emb_size, m.num_experts)

    def layer() -> Iterator[tuple[str, str, Any]]:
        yield "multi_head_attention/query", "w", quantized(m.emb_size, q_size)
        yield "multi_head_attention/key", "w", quantized(m.emb_size, kv_size)
        yield "multi_head_attention/value", "w", quantized(m.emb_size, kv_size)
        yield "multi_head_attention/linear", "w", quantized(q_size, m.emb_size, groups=num_groups)
        yield from feed_forward()
        for norm in ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3"):
            yield norm, "scale", float32(m.emb_size)

    return {
        "language_model/in_out_embed": {"embeddings": float32(config.vocab_size, m.emb_size)},
        "language_model/rms_norm": {"scale": float32(m.emb_size)},
        **{
            f"transformer/decoder_layer_{i}/{path}": {name: shape}
            for i in range(m.num_layers)
            for path, name, shape in layer()
        },
    }


def quantize_params(config: LanguageModelConfig, params: Params, num_groups: int = PUBLISHED_NUM_GROUPS) -> Params:
    """Return the parameters stored as in the published checkpoint: float weights become 8-bit ones (SPEC §2, §3).

    Host arrays, one leaf after the other; norms, router, embedding and what is quantised already stay as they are.
    Raises ValueError for a value that is not finite, and for rows that do not divide into the groups.
    """
    shapes = parameter_shapes(config, num_groups=num_groups)

    def store(leaf: Any, expected: Any) -> Any:
        if is_quantized(leaf) or not is_quantized(expected):
            return leaf
        return quantize(leaf, expected.scales.shape[-2], expected.scales.dtype)

    return {
        path: {name: store(leaf, shapes[path][name]) for name, leaf in names.items()} for path, names in params.items()
    }
