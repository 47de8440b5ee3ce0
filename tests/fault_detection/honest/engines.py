"""Ways of whole blocks as one engine runs them: experts on tensor parallel ranks, int8 products scaled afterwards."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from tests.fault_detection.honest.experts import tanh_gelu
from tests.fault_detection.honest.products import BF16, bf16, halves
from tests.fault_detection.honest.way import Way, narrow


def experts_on_ranks(num_ranks: int) -> dict[str, Any]:
    """Return the replacements of fused experts on ranks: parts times gates rounded, added, rounded, and reduced."""

    def expert(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        made = original_expert(params, path, index, x)
        if not narrow(x):
            return made
        hidden = bf16(bf16(tanh_gelu(made.activation.float())) * made.up.float())
        weight = parameters.matrix(params, f"{path}/linear_1/w", index).float()
        return made._replace(hidden=hidden, output=torch.cat(halves(hidden, weight, num_ranks), -1))

    def combine_experts(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype != torch.bfloat16:
            return original_combine(outputs, gate, dtype)
        ranks = torch.chunk(outputs, num_ranks, -1)  # side by side, until they are combined
        return torch.stack([bf16(bf16(rank * gate[..., None]).sum(-2)) for rank in ranks]).sum(0).to(dtype)

    return {"model": {"expert": expert}, "operations": {"combine_experts": combine_experts},
            "hides": ("moe.expert_output",)}  # fmt: skip


def scaled_afterwards() -> dict[str, Any]:
    """Return the replacements that multiply int8 values in bf16 and scale each group's rounded result."""

    def matrix(params: parameters.Params, name: str, expert: int | None = None) -> Tensor:
        made = parameters.matrix(params, name, expert).clone()
        if f"{name}.scales" in params:
            stored = [params[f"{name}.{part}"] for part in ("weight", "scales")]
            made.stored = stored if expert is None else [part[expert] for part in stored]  # type: ignore[attr-defined]
        return made

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        if not narrow(x) or not hasattr(weight, "stored"):
            return original_linear(x, weight)
        int8, scales = (part.float() for part in weight.stored)
        parts = [bf16(bf16(part) * scale)
                 for part, scale in zip(halves(x.float(), int8, len(scales)), scales, strict=True)]  # fmt: skip
        total = parts[0]
        for part in parts[1:]:
            total = bf16(total + part)
        return total.to(x.dtype)

    return {"operations": {"linear": linear}, "model": {"matrix": matrix}}


original_expert, original_combine, original_linear = model.expert, operations.combine_experts, operations.linear

WAYS = (
    Way(id="vllm_moe_tp2", engines="vLLM on 2 GPUs", dtypes=BF16, **experts_on_ranks(2),
        plan=("moe.expert_hidden", "moe.output"),
        does="fused experts on 2 ranks: part times gate rounded, added, rounded, reduced in float32"),
    Way(id="gpt_fast_int8", engines="gpt-fast", dtypes=BF16, **scaled_afterwards(),
        does="int8 values multiplied in bf16, each group's rounded result scaled and rounded",
        plan=("attention.query", "attention.key", "attention.value", "attention.output", "dense.activation",
              "dense.up", "moe.output")),
)  # fmt: skip
