"""Ways of whole blocks as one engine runs them: experts on tensor parallel ranks, int8 products scaled afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from tests.fault_detection.honest.experts import tanh_gelu
from tests.fault_detection.honest.products import BF16, bf16, halves
from tests.fault_detection.honest.streams import combine_remembering, embed_remembered, normed, wide_of, with_wide
from tests.fault_detection.honest.way import Way, narrow


def added_once(parts: Sequence[Tensor]) -> Tensor:
    """Add what ranks give in float32."""
    return torch.stack(list(parts)).sum(0)


def added_pairwise(parts: Sequence[Tensor]) -> Tensor:
    """Add neighbours in bf16 until one is left."""
    level = list(parts)
    while len(level) > 1:
        level = [bf16(a + b) for a, b in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def added_by_node(parts: Sequence[Tensor]) -> Tensor:
    """Add the ranks of each of two nodes in float32, round both sums, and add them."""
    half = len(parts) // 2
    return bf16(added_once(parts[:half])) + bf16(added_once(parts[half:]))


def experts_on_ranks(
    num_ranks: int,
    reduce: Callable[[Sequence[Tensor]], Tensor] = added_once,
    *,
    rounded_terms: bool = True,
    rounded_parts: bool = False,
) -> dict[str, Any]:
    """Return the replacements of fused experts on ranks: parts times gates, added, rounded, and reduced.

    With `rounded_terms` every part times its gate is rounded before it is added, with `rounded_parts` every part.
    """

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
        parts = torch.chunk(outputs, num_ranks, -1)  # side by side, until they are combined
        ranks = [bf16(part) if rounded_parts else part for part in parts]
        gated = [bf16(rank * gate[..., None]) if rounded_terms else rank * gate[..., None] for rank in ranks]
        return reduce([bf16(each.sum(-2)) for each in gated]).to(dtype)

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


def fused_chains() -> dict[str, Any]:
    """Return the replacements of a compiler that rounds what it stores, and reads on in float32 within a kernel."""

    def residual(x: Tensor, update: Tensor) -> Tensor:
        wide = x.float() + wide_of(update)
        return with_wide(wide.to(x.dtype), wide) if narrow(x) else wide

    return {"operations": {"embed": embed_remembered, "residual": residual, "rms_norm": normed,
                           "combine_experts": combine_remembering}}  # fmt: skip


original_expert, original_combine, original_linear = model.expert, operations.combine_experts, operations.linear

WAYS = (
    Way(id="vllm_moe_tp2", engines="vLLM on 2 GPUs", dtypes=BF16, **experts_on_ranks(2),
        plan=("moe.expert_hidden", "moe.output"),
        does="fused experts on 2 ranks: part times gate rounded, added, rounded, reduced in float32"),
    Way(id="tree_moe_tp4", engines="vLLM, a tree", dtypes=BF16, **experts_on_ranks(4, added_pairwise),
        plan=("moe.expert_hidden", "moe.output"),
        does="fused experts on 4 ranks: part times gate rounded, added, rounded, reduced pairwise in bf16"),
    Way(id="two_nodes_moe_tp4", engines="NCCL, two nodes of 2", dtypes=BF16,
        **experts_on_ranks(4, added_by_node, rounded_terms=False), plan=("moe.expert_hidden", "moe.output"),
        does="experts on 4 ranks of 2 nodes: combined in float32, rounded, added by node, rounded, and added"),
    Way(id="rounded_parts_moe_tp4", engines="Megatron, two nodes of 2", dtypes=BF16,
        **experts_on_ranks(4, added_by_node, rounded_terms=False, rounded_parts=True),
        plan=("moe.expert_hidden", "moe.output"),
        does="experts on 4 ranks of 2 nodes: each product rounded, combined in float32, rounded, added by node"),
    Way(id="gpt_fast_int8", engines="gpt-fast", dtypes=BF16, **scaled_afterwards(),
        does="int8 values multiplied in bf16, each group's rounded result scaled and rounded",
        plan=("attention.query", "attention.key", "attention.value", "attention.output", "dense.activation",
              "dense.up", "moe.output")),
    Way(id="inductor_like", engines="torch.compile", dtypes=BF16, **fused_chains(),
        does="norms, sums and experts' sums read on unrounded within a kernel, but a dense block's product rounded",
        plan=("attention.norm", "attention.residual", "moe.norm", "moe.output_norm", "output", "final_norm")),
)  # fmt: skip
