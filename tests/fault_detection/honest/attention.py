"""Ways to attend: scores kept or scaled early, online softmax over tiles and splits, other exponentials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.way import Way, narrow

CAP = 30.0
BLIND = -1e29
HIDDEN = ("attention.logits", "attention.weights")
Function = Callable[[Tensor], Tensor]


def scores(query: Tensor, keys: Tensor) -> Tensor:
    """Return float32 products [b, g, r, t, s], not rounded."""
    grouped = torch.unflatten(query.float(), 2, (keys.shape[2], -1))
    return torch.einsum("btgrh,bsgh->bgrts", grouped, keys.float())


def kept(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    return scores(query, keys) * multiplier


def prescaled(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    scaled = (query.float() * multiplier).to(query.dtype)
    return scores(scaled, keys)


def online(tile: int, *, splits: int = 1, exponential: Function = torch.exp, wide: bool = False) -> dict[str, Any]:
    """Return the replacements of a flash kernel: tiles of keys, p rounded before p·v, one division at the end.

    With `splits` the keys are attended in parts, merged by their log-sum-exp; `wide` keeps p in float32.
    """

    def attention_weights(masked: Tensor, dtype: torch.dtype) -> Tensor:
        return torch.cat([masked, torch.full_like(masked[..., :1], float(dtype == torch.bfloat16))], -1)

    def attention_heads(packed: Tensor, values: Tensor) -> Tensor:
        masked, is_narrow = packed[..., :-1], bool(packed.flatten()[-1])
        parts = [
            partial(m, v.float(), rounds=is_narrow and not wide)
            for m, v in zip(masked.tensor_split(splits, -1), values.tensor_split(splits, 1), strict=True)
        ]
        top = torch.stack([maximum for _, _, maximum in parts]).amax(0)
        weight = [torch.exp(maximum - top) for _, _, maximum in parts]
        total = torch.stack([s * w for (_, s, _), w in zip(parts, weight, strict=True)]).sum(0)
        summed = torch.stack([a * w for (a, _, _), w in zip(parts, weight, strict=True)]).sum(0)
        averaged = summed / total  # [b, g, r, t, h]
        return averaged.permute(0, 3, 1, 2, 4).flatten(2, 3).to(values.dtype)

    def partial(masked: Tensor, values: Tensor, *, rounds: bool) -> tuple[Tensor, Tensor, Tensor]:
        shape = masked.shape[:-1]
        maximum = torch.full((*shape, 1), -1e30)
        total, averaged = torch.zeros(*shape, 1), torch.zeros(*shape, values.shape[-1])
        for start in range(0, masked.shape[-1], tile):
            part, value = masked[..., start : start + tile], values[:, start : start + tile]
            larger = torch.maximum(maximum, part.amax(-1, keepdim=True))
            p, shrink = exponential(part - larger), exponential(maximum - larger)
            total = total * shrink + p.sum(-1, keepdim=True)
            p = bf16(p) if rounds else p
            averaged = averaged * shrink + torch.einsum("bgrts,bsgh->bgrth", p, value)
            maximum = larger
        return averaged, total, maximum

    return {"attention_weights": attention_weights, "attention_heads": attention_heads}


def beside_shown_weights(tile: int) -> dict[str, Any]:
    """Return the replacements of a flash kernel beside which the weights are worked out, to be shown and not used."""
    kernel = online(tile)

    def attention_weights(masked: Tensor, dtype: torch.dtype) -> Tensor:
        shown: Tensor = torch.softmax(masked, -1).to(dtype, copy=True)
        shown.packed = kernel["attention_weights"](masked, dtype)  # type: ignore[attr-defined]
        return shown

    def attention_heads(weights: Tensor, values: Tensor) -> Tensor:
        made: Tensor = kernel["attention_heads"](weights.packed, values)  # type: ignore[attr-defined]
        return made

    return {"attention_weights": attention_weights, "attention_heads": attention_heads}


def softmax_by(exponential: Function, *, offset: float | None = None) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Return a softmax by another exponential; an `offset` stands for the running maximum."""

    def attention_weights(masked: Tensor, dtype: torch.dtype) -> Tensor:
        top = masked.amax(-1, keepdim=True) if offset is None else torch.tensor(offset)
        blind = masked.amax(-1, keepdim=True) <= -1e29
        p = exponential(masked - torch.where(blind, masked.amax(-1, keepdim=True), top))
        return (p / p.sum(-1, keepdim=True)).to(dtype)

    return attention_weights


def exp2_folded(x: Tensor) -> Tensor:
    return torch.exp2(x * math.log2(math.e))


def ex2_approx(x: Tensor) -> Tensor:
    """ex2.approx.f32 errs by 2^-22 at most (PTX ISA)."""
    y = torch.exp2(x * math.log2(math.e))
    return y * (1 + 2.0**-22 * torch.cos(y * 1e5))


def fma_exp2(masked: Tensor, dtype: torch.dtype) -> Tensor:
    factor = math.log2(math.e)
    top = masked.amax(-1, keepdim=True)
    blind = top <= BLIND  # so large that the rounding of one product alone would overflow
    p = torch.exp2((masked.double() * factor - (top * factor).double()).float())
    p = torch.where(blind, torch.exp(masked - top), p)
    return (p / p.sum(-1, keepdim=True)).to(dtype)


def weights_wide(masked: Tensor, dtype: torch.dtype) -> Tensor:
    del dtype
    return torch.softmax(masked, -1)


def heads_wide(weights: Tensor, values: Tensor) -> Tensor:
    averaged = torch.einsum("bgrts,bsgh->btgrh", weights.float(), values.float())
    return averaged.flatten(2, 3).to(values.dtype)


def cap_by(tanh: Function) -> Function:
    return lambda logits: CAP * tanh(logits / CAP)


def tanh_sigmoid(x: Tensor) -> Tensor:
    return 2 * torch.sigmoid(2 * x) - 1


def tanh_approx(x: Tensor) -> Tensor:
    """tanh.approx.f32 errs by 2^-11 of the value at most (PTX ISA)."""
    return torch.tanh(x) * (1 + 2.0**-11 * torch.sin(x * 4e3))


def rotate_complex(x: Tensor, positions: Tensor) -> Tensor:
    """Rotate as complex numbers, by tables worked out in float64 and kept in float32."""
    half = x.shape[-1] // 2
    phase = positions[..., None].double() * 10000.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    turn = torch.polar(torch.ones((), dtype=torch.float64), phase).to(torch.complex64)[:, :, None]
    turned = torch.complex(*x.float().chunk(2, -1)) * turn
    return torch.cat((turned.real, turned.imag), -1).to(x.dtype)


def rotate_bf16_tables(x: Tensor, positions: Tensor) -> Tensor:
    half = x.shape[-1] // 2
    phase = positions[..., None].float() * 10000.0 ** (-torch.arange(half).float() / half)
    cos, sin = (bf16(f(phase))[:, :, None] for f in (torch.cos, torch.sin))
    first, second = x.float().chunk(2, -1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), -1).to(x.dtype)


def scores_all_bf16(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    if not narrow(query):
        return kept(query, keys, multiplier)
    return bf16(bf16(scores(query, keys)) * bf16(torch.tensor(multiplier)))


def cap_all_bf16(logits: Tensor) -> Tensor:
    return bf16(bf16(torch.tanh(bf16(logits / CAP))) * CAP)


KEPT = {"attention_logits": kept}

WAYS = (
    *(Way(id=f"flash_tile{tile}", engines="FlashAttention", hides=HIDDEN,
          does=f"online softmax, tiles of {tile} keys, q·k kept in float32, p rounded; logits and weights hidden",
          operations={**KEPT, **online(tile)}, plan=("attention.heads",), untold=True) for tile in (2, 16, 128)),
    *(Way(id=f"flash_tile{tile}_weights_shown", engines="FlashAttention beside a softmax for show", dtypes=BF16,
          does=f"online softmax, tiles of {tile} keys, p rounded; logits and weights shown",
          operations={**KEPT, **beside_shown_weights(tile)}, plan=("attention.logits", "attention.heads"))
      for tile in (4, 64)),
    Way(id="flash_splits3", engines="FlashDecoding", does="3 splits merged by their log-sum-exp", hides=HIDDEN,
        operations={**KEPT, **online(4, splits=3)}, plan=("attention.heads",), untold=True),
    Way(id="flash_p32", engines="FlashAttention in float32", does="as flash_tile2, p kept in float32", hides=HIDDEN,
        operations={**KEPT, **online(2, wide=True)}, plan=("attention.heads",), untold=True),
    Way(id="flash_exp2", engines="FlashAttention 2, Triton", does="exp2 with log2 e folded", hides=HIDDEN,
        operations={**KEPT, **online(16, exponential=exp2_folded)}, plan=("attention.heads",), untold=True),
    Way(id="flash_qk_rounded", engines="an instrumented kernel", does="tiles of 2, q·k rounded first", hides=HIDDEN,
        operations=online(2)),
    Way(id="flash_logits_shown", engines="an instrumented kernel", does="tiles of 2, the float32 logits shown",
        hides=("attention.weights",), dtypes=BF16, operations={**KEPT, **online(2)}, plan=("attention.logits",)),
    Way(id="flash_tanh_sigmoid", engines="SGLang and vLLM Triton kernels", does="cap by 2·sigmoid(2x)-1, tiles of 2",
        hides=HIDDEN, dtypes=BF16, operations={**KEPT, **online(2), "cap_logits": cap_by(tanh_sigmoid)},
        plan=("attention.heads",), untold=True),
    Way(id="flash_tanh_approx", engines="FlashInfer", does="cap by tanh.approx (2^-11), tiles of 2", hides=HIDDEN,
        dtypes=BF16, operations={**KEPT, **online(2), "cap_logits": cap_by(tanh_approx)}, plan=("attention.heads",),
        untold=True),
    Way(id="qk_kept_shown", engines="torch eager attention in float32", does="q·k kept, all shown", dtypes=BF16,
        operations=KEPT, plan=("attention.logits",)),
    Way(id="q_prescaled", engines="xformers", does="q scaled in the compute dtype before the product", dtypes=BF16,
        operations={"attention_logits": prescaled}, plan=("attention.logits",)),
    Way(id="q_prescaled_hidden", engines="xformers", does="the same, tiles of 2, logits and weights hidden",
        dtypes=BF16,
        hides=HIDDEN, operations={"attention_logits": prescaled, **online(2)}, plan=("attention.heads",), untold=True),
    Way(id="softmax_exp2", engines="Triton", does="softmax by exp2",
        operations={"attention_weights": softmax_by(exp2_folded)}),
    Way(id="softmax_ex2approx", engines="CUDA", does="softmax by ex2.approx (2^-22)",
        operations={"attention_weights": softmax_by(ex2_approx)}),
    Way(id="softmax_fma_exp2", engines="FlashAttention 2", does="exp2 of one fused multiply-add",
        operations={"attention_weights": fma_exp2}),
    Way(id="softmax_no_max", engines="FlashDecoding++", does="no maximum subtracted, since the cap bounds the logits",
        operations={"attention_weights": softmax_by(torch.exp, offset=0.0)}),
    Way(id="softmax_fixed_max", engines="FlashDecoding++", does="exp(l - 30): a unified maximum",
        operations={"attention_weights": softmax_by(torch.exp, offset=CAP)}, plan=("attention.weights",),
        untold=True),
    Way(id="attn_weights_f32", engines="transformers eager", does="weights kept and shown in float32", dtypes=BF16,
        operations={"attention_weights": weights_wide, "attention_heads": heads_wide}),
    Way(id="cap_folded", engines="Triton", does="30·tanh(s·(m/30)), the constants folded",
        operations={"attention_logits": lambda q, k, m: scores_rounded(q, k) * (m / CAP),
        "cap_logits": lambda x: CAP * torch.tanh(x)}),
    Way(id="cap_tanh_sigmoid", engines="Triton", does="cap by 2·sigmoid(2x)-1, logits shown",
        operations={"cap_logits": cap_by(tanh_sigmoid)}, plan=("attention.logits",)),
    Way(id="cap_tanh_approx", engines="FlashInfer", does="cap by tanh.approx (2^-11), logits shown",
        operations={"cap_logits": cap_by(tanh_approx)}, plan=("attention.logits",)),
    Way(id="rope_complex", engines="Meta's Llama", does="rope as a complex product with tables from float64",
        operations={"rotate": rotate_complex}),
    Way(id="rope_bf16_tables", mark="wrong", engines="vLLM", does="cos and sin cached in bf16",
        operations={"rotate": rotate_bf16_tables}, fault="rope_cos_sin_bf16"),
    Way(id="scores_all_bf16", mark="wrong", engines="transformers' Gemma 2, eager", dtypes=BF16,
        does="scale, /30, tanh and ·30 each rounded to bf16",
        operations={"attention_logits": scores_all_bf16, "cap_logits": cap_all_bf16}, fault="scores_bf16"),
)  # fmt: skip


def scores_rounded(query: Tensor, keys: Tensor) -> Tensor:
    """Return products rounded to the compute dtype, in float32."""
    return scores(query, keys).to(query.dtype).float()
