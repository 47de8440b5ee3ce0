"""Ways to normalise, to keep the residual stream, to embed and to project onto the vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.cases.case import Case, Preset
from grok_conformance.harness.contract import DTYPES, Array, split_tap
from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.way import Way, narrow

EPSILON = 1e-5
NORMS = ("attention.norm", "attention.output_norm", "moe.norm", "moe.output_norm", "final_norm")


def inverse(wide: Tensor) -> Tensor:
    return torch.rsqrt(wide.square().mean(-1, keepdim=True) + EPSILON)


def norm_hf(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    return ((wide * inverse(wide)).to(x.dtype).float() * scale).to(x.dtype)


def norm_f64(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.double()
    return (wide * inverse(wide) * scale).to(x.dtype)


def norm_gain_first(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    mean = torch.stack([part.square().sum(-1) for part in wide.tensor_split(4, -1)], -1).sum(-1) / x.shape[-1]
    return ((wide * scale) * torch.rsqrt(mean + EPSILON)[..., None]).to(x.dtype)


def norm_rsqrt_approx(x: Tensor, scale: Tensor) -> Tensor:
    """rsqrt.approx.f32 errs by 2^-22.9 at most (CUDA's table of intrinsics)."""
    wide = x.float()
    root = inverse(wide)
    return (wide * (root * (1 + 2.0**-22.9 * torch.cos(root * 1e6))) * scale).to(x.dtype)


def norm_divide(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    return (wide / (wide.square().mean(-1, keepdim=True) + EPSILON).sqrt() * scale).to(x.dtype)


def norm_squares_bf16(x: Tensor, scale: Tensor) -> Tensor:
    squares = x.square().float() if narrow(x) else x.square()
    return (x.float() * torch.rsqrt(squares.mean(-1, keepdim=True) + EPSILON) * scale).to(x.dtype)


def norm_scale_bf16(x: Tensor, scale: Tensor) -> Tensor:
    return operations_rms_norm(x, scale.to(x.dtype).float())


operations_rms_norm = operations.rms_norm


class Wide(torch.Tensor):
    """A float32 residual stream whose compute dtype is bf16."""


def stream(*, shown: str) -> dict[str, Any]:
    """Return the replacements that keep the residual stream in float32; norms give back the compute dtype.

    `shown` is how its taps are given: "wide" as float32, "rounded" in the compute dtype, "hidden" not at all.
    """

    def embed(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
        made = table[tokens] * torch.tensor(multiplier, dtype=table.dtype)
        return made.float().as_subclass(Wide) if narrow(table) else made

    def residual(x: Tensor, update: Tensor) -> Tensor:
        return (x.as_subclass(Tensor) + update.float()).as_subclass(Wide) if isinstance(x, Wide) else x + update

    def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
        wide = x.as_subclass(Tensor).float()
        made = wide * inverse(wide) * scale
        return made.to(torch.bfloat16) if isinstance(x, Wide) else made.to(x.dtype)

    streams = ("embedding", "attention.residual", "output")

    def showing(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
        del preset
        kept = DTYPES[case.fprop_dtype] if shown == "rounded" else None
        return {
            key: x.astype(kept) if kept is not None and split_tap(key.partition("/")[2])[1] in streams else x
            for key, x in taps.items()
        }

    return {
        "operations": {"embed": embed, "residual": residual, "rms_norm": rms_norm},
        "showing": showing,
        "hides": ("attention.residual", "output") if shown == "hidden" else (),
    }


def fused_norm() -> dict[str, Any]:
    """Return the replacements of a kernel that adds and normalises: the norm reads the sum before it is rounded."""
    sums: dict[int, Tensor] = {}

    def residual(x: Tensor, update: Tensor) -> Tensor:
        made = x + update
        sums.clear()
        sums[id(made)] = x.float() + update.float()
        made.unrounded = sums[id(made)]  # type: ignore[attr-defined]
        return made

    def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
        wide = getattr(x, "unrounded", x.float())
        return (wide * inverse(wide) * scale).to(x.dtype)

    return {"operations": {"residual": residual, "rms_norm": rms_norm}}


def embed_wide_multiplier(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
    return (table[tokens].float() * multiplier).to(table.dtype)


def embed_premultiplied(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
    return (table.float() * multiplier).to(table.dtype)[tokens]


def head_kept(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    return hidden.float() @ table.to(hidden.dtype).float().T * multiplier


def head_folded(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    return operations.linear(hidden, (table.float() * multiplier).to(hidden.dtype).T)


def head_scaled_hidden(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    return operations.linear((hidden.float() * multiplier).to(hidden.dtype), table.T)


def as_float32(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    del preset, case
    return {key: x.astype("float32") if key.endswith("/logits") else x for key, x in taps.items()}


WAYS = (
    Way(id="norm_hf", engines="transformers, vLLM", does="rounds the normalised value before the gain", dtypes=BF16,
        operations={"rms_norm": norm_hf}, plan=NORMS),
    Way(id="norm_f64", engines="any", does="normalises in float64", operations={"rms_norm": norm_f64}),
    Way(id="norm_gain_first", engines="TensorRT-LLM", does="x · gain first, then rsqrt of a mean by chunks",
        operations={"rms_norm": norm_gain_first}),
    Way(id="norm_rsqrt_approx", engines="Triton", does="rsqrt.approx (2^-22.9)",
        operations={"rms_norm": norm_rsqrt_approx}),
    Way(id="norm_divide", engines="llama.cpp", does="divides by the root", operations={"rms_norm": norm_divide}),
    Way(id="norm_bf16_squares", mark="wrong", engines="a port", does="squares in bf16", dtypes=BF16,
        operations={"rms_norm": norm_squares_bf16}, fault="norm_squares_bf16"),
    Way(id="norm_scale_bf16", mark="wrong", engines="tt-metal", does="gains rounded to bf16", dtypes=BF16,
        operations={"rms_norm": norm_scale_bf16}, fault="norm_scale_bf16"),
    Way(id="fused_add_norm", engines="vLLM, SGLang", does="the norm reads the unrounded sum; fused is not declared",
        dtypes=BF16, **fused_norm(), plan=("attention.norm", "moe.norm", "final_norm")),
    Way(id="fused_add_norm_declared", engines="vLLM, SGLang", does="the same, fused declared", dtypes=BF16,
        **fused_norm(), info={"fused": True}, plan=("attention.norm", "moe.norm", "final_norm")),
    Way(id="residual_f32_shown", engines="FlashAttention's layer norm", does="float32 residual stream, shown so",
        dtypes=BF16, **stream(shown="wide")),
    Way(id="residual_f32_tapped_bf16", engines="FlashAttention's layer norm", dtypes=BF16,
        does="float32 residual stream, shown in bf16", **stream(shown="rounded"),
        plan=("attention.norm", "attention.residual", "moe.norm", "output", "final_norm")),
    Way(id="residual_f32_tapped_bf16_fused", engines="FlashAttention's layer norm", dtypes=BF16,
        does="the same, fused declared", **stream(shown="rounded"), info={"fused": True},
        plan=("attention.norm", "attention.residual", "moe.norm", "output", "final_norm")),
    Way(id="residual_f32_hidden", engines="FlashAttention's layer norm", does="float32 residual stream, not shown",
        dtypes=BF16, **stream(shown="hidden")),
    Way(id="embed_bf16_table_f32_mult", engines="transformers", does="bf16 table times the float32 multiplier",
        dtypes=BF16, operations={"embed": embed_wide_multiplier}, plan=("embedding",)),
    Way(id="embed_premultiplied", engines="llama.cpp converters", does="the table multiplied and stored", dtypes=BF16,
        operations={"embed": embed_premultiplied}, plan=("embedding",)),
    Way(id="head_f32_logits", engines="vLLM", does="bf16 table, logits kept in float32", dtypes=BF16,
        operations={"unembed": head_kept}, plan=("logits",)),
    Way(id="logits_bf16_as_f32", engines="transformers", does="bf16 logits returned as float32", dtypes=BF16,
        showing=as_float32),
    Way(id="head_folded", engines="SGLang", does="the output multiplier folded into the head's bf16 table", dtypes=BF16,
        operations={"unembed": head_folded}, plan=("logits",)),
    Way(id="head_scaled_hidden", engines="Gemma-style ports", does="hidden scaled in bf16 before the head", dtypes=BF16,
        operations={"unembed": head_scaled_hidden}, plan=("logits",)),
)  # fmt: skip


__all__ = ["WAYS", "bf16"]
