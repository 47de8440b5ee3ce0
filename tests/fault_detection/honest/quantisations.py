"""Activations and caches in fewer bits: wrong unless declared, and then judged by their own model."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from tests.fault_detection.honest.attention import HIDDEN
from tests.fault_detection.honest.products import MATRICES, OUTPUT, summing
from tests.fault_detection.honest.way import Way


def int8_per_token(x: Tensor) -> Tensor:
    scale = (x.abs().amax(-1, keepdim=True) / 127).clamp_min(1e-30)
    return torch.round(x / scale).clamp(-127, 127) * scale


def fp8(x: Tensor) -> Tensor:
    """Round to float8_e4m3fn, as float32."""
    return torch.from_numpy(x.numpy().astype(ml_dtypes.float8_e4m3fn).astype(np.float32))


def fp8_per_token(x: Tensor) -> Tensor:
    scale = (x.abs().amax(-1, keepdim=True) / 448).clamp_min(1e-30)
    return fp8(x / scale) * scale


def int8_in_blocks(x: Tensor, axis: int) -> Tensor:
    """Round to int8 in blocks of 32 along an axis, with one float16 scale each: ggml's Q8_0."""
    parts = []
    for part in torch.split(x, 32, axis):
        scale = (part.abs().amax(axis, keepdim=True) / 127).half().float().clamp_min(1e-7)
        parts.append(torch.round(part / scale).clamp(-127, 127) * scale)
    return torch.cat(parts, axis)


def a_q8_0(x: Tensor, w: Tensor) -> Tensor:
    return int8_in_blocks(x, -1) @ w


def w_q8_0(x: Tensor, w: Tensor) -> Tensor:
    return x @ int8_in_blocks(w, 0)


def router_rounded(x: Tensor, weight: Tensor) -> Tensor:
    """Give router logits in the dtype of the stream, as a linear layer of a bf16 model does."""
    return (x.float() @ weight).to(x.dtype).float()


def w8a8(x: Tensor, w: Tensor) -> Tensor:
    return int8_per_token(x) @ w


def a_fp8(x: Tensor, w: Tensor) -> Tensor:
    return fp8_per_token(x) @ w


def cache_of(quantised: Any) -> dict[str, Any]:
    """Return the replacement that stores new keys and values in fewer bits, one scale per head and token."""

    def update_cache(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
        return original_update(cache, quantised(new.float()).to(cache.dtype), positions)

    return {"update_cache": update_cache}


original_update = operations.update_cache

CACHE = ("kv.keys", "kv.values")

EVERY_PRODUCT = ("*.attention.query", "*.attention.key", "*.attention.value", "*.attention.output", "*.moe.expert_*",
                 "*.dense.*", "*.moe.output", "logits")  # fmt: skip


def saying(kind: str, *operations: str) -> dict[str, Any]:
    """Return the INFO of a port that declares its quantisation."""
    return {"quantised": dict.fromkeys(operations, kind)}


WAYS = (
    Way(id="w8a8_declared", engines="SmoothQuant kernels", does="activations int8 per token everywhere, declared",
        dtypes=("bfloat16",), **summing(w8a8, float32=None), info=saying("int8", *EVERY_PRODUCT)),
    Way(id="w8a8_o_declared", engines="SmoothQuant kernels", does="int8 at the attention output, declared",
        dtypes=("bfloat16",), **summing(w8a8, OUTPUT), info=saying("int8", "*.attention.output")),
    Way(id="w8a8_f32_declared", engines="SmoothQuant kernels", does="int8 per token under float32, declared",
        dtypes=("float32",), **summing(w8a8, float32=True), info=saying("int8", *EVERY_PRODUCT)),
    Way(id="a8_q8_0_declared", engines="llama.cpp on CPUs", does="activations int8 in blocks of 32, declared",
        dtypes=("bfloat16",), **summing(a_q8_0, float32=None), info=saying("int8_block32", *EVERY_PRODUCT)),
    Way(id="fp8_o_declared", engines="TransformerEngine", does="fp8 e4m3 at the attention output, declared",
        dtypes=("bfloat16",), **summing(a_fp8, OUTPUT), info=saying("fp8", "*.attention.output")),
    Way(id="kv_fp8_declared", engines="vLLM with fp8 caches", does="fp8 cache, declared",
        operations=cache_of(fp8), info=saying("fp8_unscaled", "*.kv.*")),
    Way(id="kv_fp8_hidden_declared", engines="vLLM with fp8 caches", does="fp8 cache, declared and not shown",
        operations=cache_of(fp8), hides=(*HIDDEN, *CACHE), info=saying("fp8_unscaled", "*.kv.*")),
    Way(id="w8a8_dynamic", mark="wrong", engines="SmoothQuant kernels", does="activations int8 per token, everywhere",
        dtypes=("bfloat16",), **summing(w8a8, float32=None), fault="activations_int8"),
    Way(id="w8a8_o", mark="wrong", engines="SmoothQuant kernels", does="activations int8 at the attention output",
        dtypes=("bfloat16",), **summing(w8a8, OUTPUT), fault="activations_int8"),
    Way(id="w8a8_f32", mark="wrong", engines="SmoothQuant kernels", does="activations int8 per token under float32",
        dtypes=("float32",), **summing(w8a8, float32=True), fault="activations_int8"),
    Way(id="a8_q8_0", mark="wrong", engines="llama.cpp on CPUs", does="activations int8 in blocks of 32",
        dtypes=("bfloat16",), **summing(a_q8_0, float32=None), fault="activations_int8_in_blocks"),
    Way(id="w8_q8_0", mark="wrong", engines="llama.cpp converters", does="weights stored again as Q8_0",
        dtypes=("bfloat16",), **summing(w_q8_0, *MATRICES), fault="weights_requantised"),
    Way(id="router_logits_bf16", mark="wrong", engines="a port", does="router logits rounded to bf16",
        dtypes=("bfloat16",), operations={"router_logits": router_rounded}, fault="router_logits_bf16"),
    Way(id="fp8_o", mark="wrong", engines="TransformerEngine", does="fp8 e4m3 activations at the attention output",
        dtypes=("bfloat16",), **summing(a_fp8, OUTPUT), fault="activations_fp8"),
    Way(id="kv_fp8_as_bf16", mark="wrong", engines="vLLM with fp8 caches", does="fp8 cache, declared as bf16",
        operations=cache_of(fp8), fault="cache_fp8"),
    Way(id="kv_int8_as_bf16", mark="wrong", engines="LMDeploy",
        does="int8 cache, one scale per head and token, undeclared",
        operations=cache_of(int8_per_token), fault="cache_int8"),
    Way(id="kv_fp8_hidden", mark="wrong", engines="vLLM with fp8 caches", does="fp8 cache, not shown",
        operations=cache_of(fp8), hides=(*HIDDEN, *CACHE), fault="cache_fp8"),
)  # fmt: skip
