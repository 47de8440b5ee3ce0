"""Ways to hold weights: int8 · scale rounded or kept, plain matrices rounded or kept, float16, another table."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from tests.fault_detection.honest.experts import expert_linear_rounded, linear_wide, scaled_after, weights_wide
from tests.fault_detection.honest.products import BF16, EVERYWHERE, OUTPUT, bf16, named, operations_linear
from tests.fault_detection.honest.way import Way, narrow

original_cast = parameters.cast


def plain_kept(name: str, stored: Tensor, fprop: torch.dtype) -> Tensor:
    return stored.float() if name.endswith("/w") else original_cast(name, stored, fprop)


def float16_weights(params: parameters.Params, name: str, expert: int | None = None) -> Tensor:
    matrix = parameters.matrix(params, name, expert)
    return matrix.half().float() if f"{name}.scales" in params else matrix


def router_bf16(name: str, stored: Tensor, fprop: torch.dtype) -> Tensor:
    made = original_cast(name, stored, fprop)
    return bf16(made) if name.endswith("router/w") and fprop == torch.bfloat16 else made


def float16_output() -> dict[str, Any]:
    def linear(x: Tensor, weight: Tensor) -> Tensor:
        if str(getattr(weight, "stored_name", "")).endswith(OUTPUT):
            return (x.float() @ weight.half().float()).to(x.dtype)
        return operations_linear(x, weight)

    return {"operations": {"linear": linear}, "model": {"matrix": named}}


def table_kept() -> dict[str, Any]:
    """Keep the table in float32 for the logits; the embedding is rounded as published."""

    def cast(name: str, stored: Tensor, fprop: torch.dtype) -> Tensor:
        made = original_cast(name, stored, fprop)
        if name.endswith("embeddings"):
            made.wide = stored.float()  # type: ignore[attr-defined]
        return made

    def unembed(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
        return hidden.float() @ table.wide.T * multiplier  # type: ignore[attr-defined]

    return {"parameters": {"cast": cast}, "operations": {"unembed": unembed}}


def rounded_before_scale(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
    """Round the product with int8 values to bf16 before its one scale per channel is applied, in bf16."""

    def product(rows: Tensor, name: str) -> Tensor:
        scales = params.get(f"{path}/{name}/w.scales")
        if scales is None or scales.shape[-2] != 1 or not narrow(x):
            return operations.expert_linear(rows, parameters.matrix(params, f"{path}/{name}/w", index))
        sums = rows.float() @ params[f"{path}/{name}/w.weight"][index].float()
        return (bf16(sums) * scales[index].float()).to(scales.dtype)

    first, second = product(x, "linear"), product(x, "linear_v")
    hidden = operations.gated_hidden(first.float(), second.float())
    return model.ExpertValues(first, second, hidden, product(hidden, "linear_1").float())


KEPT = {"apply_scales": weights_wide, "linear": linear_wide, "expert_linear": expert_linear_rounded}
WEIGHTED = tuple(operation for operation in EVERYWHERE if operation != "logits")

WAYS = (
    Way(id="int8_kept_plain_rounded", engines="a dequantising loader", dtypes=BF16,
        does="int8 · scale kept in float32, plain matrices rounded", operations=KEPT, plan=WEIGHTED),
    Way(id="weights_f32", engines="a dequantising loader", dtypes=BF16, operations=KEPT,
        does="int8 · scale and plain matrices kept in float32", parameters={"cast": plain_kept}, plan=WEIGHTED),
    Way(id="w8a32_plain_kept", engines="llama.cpp with float32 tensors", dtypes=BF16,
        does="experts' float32 sums scaled by group, all other matrices kept in float32", operations=KEPT,
        parameters={"cast": plain_kept}, model=scaled_after(operand=False, shown=False)["model"], plan=WEIGHTED),
    Way(id="head_f32_table", engines="vLLM with a float32 head", does="logits in float32 with the float32 table",
        dtypes=BF16, **table_kept(), plan=("logits",)),
    Way(id="w8a16_scale_in_bf16", engines="torch int8pack_mm", dtypes=BF16,
        does="the int8 product rounded to bf16 before it is scaled in bf16", model={"expert": rounded_before_scale},
        plan=("moe.expert_activation", "moe.expert_up")),
    Way(id="weights_f16", mark="wrong", engines="a float16 loader", does="int8 weights dequantised to float16",
        model={"matrix": float16_weights}, fault="int8_weights_float16"),
    Way(id="f16_weights_o", mark="wrong", engines="a float16 loader", does="float16 weights at the attention output",
        **float16_output(), fault="weights_float16"),
    Way(id="router_bf16_weight", mark="wrong", engines="a loader that casts all", dtypes=BF16,
        does="router weights rounded to bf16", parameters={"cast": router_bf16}, fault="router_weight_bf16"),
)  # fmt: skip
