"""All ways by id, and the ports that combine several as real engines do."""

from __future__ import annotations

from collections.abc import Mapping

from tests.fault_detection.honest import (
    accumulators,
    approximations,
    attention,
    caches,
    engines,
    experts,
    folding,
    functions,
    grouping,
    loading,
    narrow,
    norms,
    products,
    quantisations,
    reductions,
    scores,
    showing,
    streams,
)
from tests.fault_detection.honest.way import Way, both

SINGLE: Mapping[str, Way] = {
    way.id: way
    for module in (
        products,
        accumulators,
        norms,
        attention,
        experts,
        grouping,
        functions,
        approximations,
        loading,
        folding,
        showing,
        caches,
        quantisations,
        scores,
        reductions,
        streams,
        engines,
        narrow,
    )
    for way in module.WAYS
}

COMBINED = (
    both(SINGLE["vllm_moe"], SINGLE["norm_hf"], SINGLE["flash_tile16"], SINGLE["head_f32_logits"],
         id="vllm_like", engines="vLLM", does="fused experts, rounded norms, flash attention, float32 logits",
         dtypes=("bfloat16",)),
    both(SINGLE["hf_moe"], SINGLE["norm_hf"], SINGLE["attn_weights_f32"], SINGLE["embed_bf16_table_f32_mult"],
         id="transformers_like", engines="transformers", does="eager experts, rounded norms, float32 weights",
         dtypes=("bfloat16",)),
    both(SINGLE["vllm_moe"], SINGLE["fused_add_norm"], SINGLE["flash_tanh_sigmoid"], SINGLE["head_folded"],
         id="sglang_like", engines="SGLang", does="fused experts and norms, Triton attention, folded head",
         dtypes=("bfloat16",)),
    both(SINGLE["tp8_oneshot_o"], SINGLE["flash_tile16"], id="tp8_like", engines="vLLM on 8 GPUs",
         does="flash attention, one-shot all-reduce of the attention output", dtypes=("bfloat16",)),
    both(SINGLE["w8a16_group_scales"], SINGLE["norm_hf"], SINGLE["head_f32_logits"], id="w8a16_like",
         engines="TensorRT-LLM", does="int8 kernels that scale sums, rounded norms, float32 logits",
         dtypes=("bfloat16",)),
    both(SINGLE["splitk2_bf16_qkv"], SINGLE["flash_splits3"], id="flash_splitk_like", engines="FlashDecoding, cuBLAS",
         does="split-K at q, k and v, attention in three splits", dtypes=("bfloat16",)),
)  # fmt: skip

ZOO: Mapping[str, Way] = {**SINGLE, **{way.id: way for way in COMBINED}}
