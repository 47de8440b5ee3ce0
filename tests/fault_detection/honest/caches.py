"""Caches that are wider, narrower or read otherwise than the compute dtype says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.contract import Array
from tests.fault_detection.honest.attention import scores
from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.quantisations import cache_of, fp8, int8_per_token
from tests.fault_detection.honest.showing import cache_as_float32, operation_of
from tests.fault_detection.honest.way import Way, narrow

original_rotate, original_update = operations.rotate, operations.update_cache


def rotate_wide(x: Tensor, positions: Tensor) -> Tensor:
    return original_rotate(x.float(), positions)


def update_wide(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    return original_update(cache.float(), new.float(), positions)


def logits_wide(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    """Multiply queries rounded to bf16 and float32 keys; the products are rounded as published."""
    return bf16(scores(bf16(query), keys)) * multiplier


def heads_wide(weights: Tensor, values: Tensor) -> Tensor:
    averaged = torch.einsum("bgrts,bsgh->btgrh", weights.float(), values.float())
    return averaged.flatten(2, 3).to(weights.dtype)


def keys_shown_wide(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    del preset, case
    queries = ("attention.query_rotated",)
    values = ("attention.value",)
    shown = {key: x.astype(ml_dtypes.bfloat16) if operation_of(key) in queries else x for key, x in taps.items()}
    return {key: x.astype(np.float32) if operation_of(key) in values else x for key, x in shown.items()}


INT8_CACHE = {"*.kv.*": "int8"}
WIDE = {"rotate": rotate_wide, "update_cache": update_wide, "attention_logits": logits_wide,
        "attention_heads": heads_wide}  # fmt: skip


def rotate_remembered(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate in float32 and round, but keep what was rounded."""
    wide = original_rotate(x.float(), positions)
    rounded = wide.to(x.dtype)
    rounded.wide = wide  # type: ignore[attr-defined]
    return rounded


def reading_fresh(update_cache: Callable[[Tensor, Tensor, Tensor], Tensor]) -> dict[str, Any]:
    """Return the replacements of a kernel that attends what a call brings before it is stored by `update_cache`."""

    def update(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
        stored = update_cache(cache, new, positions)
        stored.fresh = original_update(stored.float(), getattr(new, "wide", new.float()), positions)  # type: ignore[attr-defined]
        return stored

    def attention_logits(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
        made = scores(query.float(), vars(keys)["fresh"])
        return (bf16(made) if narrow(query) else made) * multiplier

    def attention_heads(weights: Tensor, values: Tensor) -> Tensor:
        return heads_wide(weights, vars(values)["fresh"])

    return {"rotate": rotate_remembered, "update_cache": update, "attention_logits": attention_logits,
            "attention_heads": attention_heads}  # fmt: skip


def read_in_fewer_bits(quantised: Any) -> dict[str, Any]:
    """Return the replacement that quantises what is read of the cache for the product with queries alone."""

    def attention_logits(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
        return scores(quantised(query.float()), quantised(keys.float())) * multiplier

    return {"attention_logits": attention_logits}


def weights_in_fewer_bits(quantised: Any) -> dict[str, Any]:
    """Return the replacement that quantises the weights for the product with values alone."""

    def attention_heads(weights: Tensor, values: Tensor) -> Tensor:
        averaged = torch.einsum("bgrts,bsgh->btgrh", quantised(weights.float()), values.float())
        return averaged.flatten(2, 3).to(values.dtype)

    return {"attention_heads": attention_heads}


def softmax_in_bf16(masked: Tensor, dtype: torch.dtype) -> Tensor:
    if dtype != torch.bfloat16:
        return torch.softmax(masked, -1).to(dtype)
    p = bf16(torch.exp(bf16(bf16(masked) - bf16(masked.amax(-1, keepdim=True)))))
    return bf16(p / bf16(p.sum(-1, keepdim=True))).to(dtype)


def rotate_in_bf16(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate as transformers does in a bf16 model: cos, sin, both products and their sum in bf16."""
    if not narrow(x):
        return original_rotate(x, positions)
    half = x.shape[-1] // 2
    phase = positions[..., None].float() * 10000.0 ** (-torch.arange(half).float() / half)
    cos, sin = (torch.cat((each, each), -1)[:, :, None].to(x.dtype) for each in (phase.cos(), phase.sin()))
    return x * cos + operations.rotate_half(x) * sin


FRESH_INT8 = {**reading_fresh(cache_of(int8_per_token)["update_cache"]), "rotate": original_rotate}

WAYS = (
    Way(id="kv_f32_shown_wide", engines="llama.cpp with --cache-type f32", dtypes=BF16, operations=WIDE,
        does="cache float32, rope kept; rotated keys and values shown in float32", showing=keys_shown_wide),
    Way(id="kv_f32_tapped_bf16_hidden", engines="llama.cpp with --cache-type f32", dtypes=BF16, operations=WIDE,
        does="the same, rotated keys and values hidden", showing=keys_shown_wide,
        hides=("attention.key_rotated", "attention.value")),
    Way(id="fresh_keys", engines="FlashInfer, XLA", dtypes=BF16, operations=reading_fresh(original_update),
        does="keys of this call multiplied as they are rotated, before they are rounded", plan=("attention.logits",
        "kv.keys")),
    Way(id="fresh_int8", mark="declared", engines="TensorRT-LLM", does="int8 cache; a call attends what it brings"
        " as it was before", showing=cache_as_float32,
        operations=FRESH_INT8, fault="cache_int8"),
    Way(id="fresh_int8_declared", engines="TensorRT-LLM", does="the same, declared", info={"quantised": INT8_CACHE},
        operations=FRESH_INT8, showing=cache_as_float32,
        plan=("attention.logits", "attention.heads")),
    Way(id="kv_int8_f16", mark="declared", engines="LMDeploy", operations=cache_of(int8_per_token),
        does="int8 cache, one scale per head and token, shown as float32", showing=cache_as_float32,
        fault="cache_int8"),
    Way(id="kv_int8_declared", engines="LMDeploy", does="the same, declared", operations=cache_of(int8_per_token),
        showing=cache_as_float32, info={"quantised": INT8_CACHE}),
    Way(id="qk_int8_declared", engines="SageAttention", does="q and k int8 per head and token, declared",
        operations=read_in_fewer_bits(int8_per_token), info={"quantised": {"*.attention.logits": "int8"}},
        plan=("attention.logits",), untold=True),
    Way(id="p_fp8_declared", engines="FlashAttention 3 in fp8", does="weights fp8 in their product, declared",
        operations=weights_in_fewer_bits(fp8), info={"quantised": {"*.attention.heads": "fp8_unscaled"}}),
    Way(id="qk_int8", mark="wrong", engines="SageAttention", does="q and k int8 per head and token in their product",
        operations=read_in_fewer_bits(int8_per_token), fault="query_key_int8"),
    Way(id="p_fp8", mark="wrong", engines="FlashAttention 3 in fp8", does="weights fp8 in their product with values",
        operations=weights_in_fewer_bits(fp8), fault="attention_weights_fp8"),
    Way(id="softmax_all_bf16", mark="wrong", engines="an eager port", does="every step of the softmax in bf16",
        dtypes=BF16, operations={"attention_weights": softmax_in_bf16}, fault="softmax_steps_bf16"),
    Way(id="rope_all_bf16", mark="wrong", engines="transformers in bf16", dtypes=BF16,
        does="cos, sin, products and sum of rope in bf16", operations={"rotate": rotate_in_bf16}, fault="rope_bf16"),
)  # fmt: skip
