"""Ways to score and to merge: scales applied early or late, rotations by rounded products, merged splits."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from tests.fault_detection.honest.attention import HIDDEN, scores
from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.way import Way, narrow

LOGITS = ("attention.logits",)


def narrowed(x: Tensor, factor: float) -> Tensor:
    """Return a tensor times a factor, in its dtype."""
    return (x.float() * factor).to(x.dtype)


def both_scaled(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(narrowed(query, math.sqrt(multiplier)), narrowed(keys, math.sqrt(multiplier)))


def both_scaled_rounded(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return both_scaled(query, keys, multiplier).to(query.dtype).float()


def keys_scaled(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(query, narrowed(keys, multiplier))


def query_scaled_by_rounded(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(query * torch.tensor(multiplier, dtype=query.dtype), keys)


def scaled_rounded(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return narrowed(scores(query, keys).to(query.dtype), multiplier).float()


def scaled_rounded_once(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return (scores(query, keys) * multiplier).to(query.dtype).float()


def constant_rounded(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(query, keys).to(query.dtype).float() * float(torch.tensor(multiplier).to(query.dtype))


def merged(num_splits: int, *, rounds: bool) -> dict[str, Any]:
    """Return the replacements that attend splits of the keys alone and merge their averages by log-sum-exp.

    `rounds` tells that each split's average is given in the compute dtype.
    """

    def attention_weights(masked: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.cat([masked, torch.full_like(masked[..., :1], float(dtype == torch.bfloat16))], -1)

    def attention_heads(packed: Tensor, values: Tensor) -> Tensor:
        masked, is_narrow = packed[..., :-1], bool(packed.flatten()[-1])
        averages, logarithms = [], []
        parts = zip(masked.tensor_split(num_splits, -1), values.float().tensor_split(num_splits, 1), strict=True)
        for part, value in parts:
            if not part.shape[-1]:
                continue
            top = part.amax(-1, keepdim=True).clamp(min=-1e29)
            p = torch.exp(part - top)
            total = p.sum(-1, keepdim=True)
            average = torch.einsum("bgrts,bsgh->bgrth", bf16(p) if is_narrow else p, value) / total.clamp(min=1e-30)
            averages.append(bf16(average) if rounds and is_narrow else average)
            logarithms.append(torch.where(total > 0, top + torch.log(total.clamp(min=1e-30)), -math.inf))
        whole = torch.logsumexp(torch.stack(logarithms), 0)
        shares = [torch.exp(each - whole) for each in logarithms]
        summed = torch.stack([a * share for a, share in zip(averages, shares, strict=True)]).sum(0)
        return summed.permute(0, 3, 1, 2, 4).flatten(2, 3).to(values.dtype)

    return {"attention_weights": attention_weights, "attention_heads": attention_heads}


def averaged_in_splits(num_splits: int) -> dict[str, Any]:
    """Return the replacement that averages by shown weights in splits, each rounded before they are merged."""

    def attention_heads(weights: Tensor, values: Tensor) -> Tensor:
        if not narrow(values):
            return original_heads(weights, values)
        merged_heads = torch.zeros(())
        parts = zip(weights.float().tensor_split(num_splits, -1), values.float().tensor_split(num_splits, 1),
                    strict=True)  # fmt: skip
        for part, value in parts:
            total = part.sum(-1).permute(0, 3, 1, 2)[..., None]  # [b, t, g, r, 1]
            summed = torch.einsum("bgrts,bsgh->btgrh", part, value)
            merged_heads = merged_heads + bf16(summed / total.clamp(min=1e-30)) * total
        return merged_heads.flatten(2, 3).to(values.dtype)

    return {"attention_heads": attention_heads}


def rotate_by_rounded_products(x: Tensor, positions: Tensor) -> Tensor:
    if not narrow(x):
        return original_rotate(x, positions)
    width = x.shape[-1]
    frequencies = 1.0 / operations.ROPE_BASE ** (torch.arange(0, width, 2, dtype=torch.float32) / width)
    phase = positions[:, :, None].float() * frequencies
    phase = torch.cat((phase, phase), -1)[:, :, None]
    wide = x.float()
    return (bf16(wide * phase.cos()) + bf16(operations.rotate_half(wide) * phase.sin())).to(x.dtype)


original_rotate, original_heads = operations.rotate, operations.attention_heads

WAYS = (
    Way(id="sdpa_math", engines="torch's attention by its math backend", dtypes=BF16, plan=LOGITS,
        does="q and k each times the root of the scale, scores rounded",
        operations={"attention_logits": both_scaled_rounded}),
    Way(id="sdpa_math_kept", engines="ONNX Runtime", dtypes=BF16, plan=LOGITS,
        does="q and k each times the root of the scale, scores kept", operations={"attention_logits": both_scaled}),
    Way(id="keys_scaled", engines="CPU kernels", dtypes=BF16, plan=LOGITS,
        does="k times the scale before the product", operations={"attention_logits": keys_scaled}),
    Way(id="q_prescaled_weak", engines="JAX with weak types, MLX", dtypes=BF16, plan=LOGITS,
        does="q times the rounded scale before the product", operations={"attention_logits": query_scaled_by_rounded}),
    Way(id="scores_scaled_bf16", engines="transformers, eager", dtypes=BF16, plan=LOGITS,
        does="scores rounded before and after they are scaled, capped in float32",
        operations={"attention_logits": scaled_rounded}),
    Way(id="scores_alpha_bf16", engines="torch.baddbmm", dtypes=BF16, plan=LOGITS,
        does="scores scaled in the product's epilogue and rounded once",
        operations={"attention_logits": scaled_rounded_once}),
    Way(id="scale_constant_bf16", engines="JAX with weak types", dtypes=BF16, plan=LOGITS,
        does="the scale rounded to the compute dtype, as jit does with the other multipliers",
        operations={"attention_logits": constant_rounded}),
    *(Way(id=f"lse_merge{n}_f32", engines="FlashDecoding", hides=HIDDEN, operations=merged(n, rounds=False),
          plan=("attention.logits", "attention.heads"), untold=True,
          does=f"{n} splits of the keys, float32 averages merged by log-sum-exp") for n in (2, 4)),
    *(Way(id=f"lse_merge{n}_bf16", engines="FlashInfer, vLLM's cascade attention", dtypes=BF16, hides=HIDDEN,
          operations=merged(n, rounds=True), plan=("attention.logits", "attention.heads"), untold=True,
          does=f"{n} splits of the keys, bf16 averages merged by log-sum-exp") for n in (2, 4)),
    Way(id="splits2_bf16_shown", engines="an instrumented kernel", dtypes=BF16, operations=averaged_in_splits(2),
        plan=("attention.heads",), does="2 splits of the keys, bf16 averages merged, weights shown"),
    Way(id="rope_products_rounded", engines="torch with float32 tables", dtypes=BF16,
        does="the two products of a rotation each rounded before they are added",
        operations={"rotate": rotate_by_rounded_products},
        plan=("attention.query_rotated", "attention.key_rotated")),
)  # fmt: skip
