"""Ways to run experts and dense blocks: what is rounded between the products, and how int8 weights meet activations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from grok_conformance.candidates.torch_eager import model, operations, parameters
from tests.fault_detection.honest.products import BF16, FLOAT32, bf16
from tests.fault_detection.honest.way import Way, narrow

EXPERT_PRODUCTS = ("moe.expert_activation", "moe.expert_up", "moe.expert_output")
FACTOR = 0.7978845608028654
OUTPUT = ("moe.expert_output",)
Function = Callable[[Tensor], Tensor]


def tanh_gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


def weight_of(params: parameters.Params, name: str, index: int) -> Tensor:
    """Return an expert's matrix as the port gets it, which another way may have replaced."""
    matrix: Tensor = vars(model)["matrix"](params, name, index)
    return matrix


@dataclass(frozen=True)
class Roundings:
    """What an expert rounds to bf16: gelu's result, the gated hidden, that as an operand, the output."""

    gelu: bool = False
    hidden: bool = False
    operand: bool = False
    output: bool = False
    function: Function = tanh_gelu
    first: bool = False  # whatever the dtype of the scales, the first products are rounded


def expert(rounds: Roundings) -> Callable[..., model.ExpertValues]:
    """Return an expert that rounds there, and nowhere in float32."""

    def run(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        def rounded(value: Tensor, *, here: bool) -> Tensor:
            return bf16(value) if here and narrow(x) else value

        first, second = (
            rounded(operations.expert_linear(x, weight_of(params, f"{path}/{name}/w", index)), here=rounds.first)
            for name in ("linear", "linear_v")
        )
        hidden = rounded(rounds.function(first.float()), here=rounds.gelu) * second.float()
        hidden = rounded(hidden, here=rounds.hidden)
        operand = rounded(hidden, here=rounds.operand)
        output = operations.expert_linear(operand, weight_of(params, f"{path}/linear_1/w", index))
        return model.ExpertValues(first, second, hidden, rounded(output, here=rounds.output))

    return run


def combine(*, terms: bool = False, gate: bool = True, by_turn: bool = False) -> Callable[..., Tensor]:
    """Return a sum over experts: gate rounded, each product rounded, added one after the other in bf16."""

    def run(outputs: Tensor, gates: Tensor, dtype: torch.dtype) -> Tensor:
        is_narrow = dtype == torch.bfloat16
        weight = bf16(gates) if gate and is_narrow else gates
        products = outputs * weight[..., None]
        products = bf16(products) if terms and is_narrow else products
        if not (by_turn and is_narrow):
            return products.sum(-2).to(dtype)
        total = products[..., 0, :]
        for c in range(1, products.shape[-2]):
            total = bf16(total + products[..., c, :])
        return total.to(dtype)

    return run


def sharded_combine(num_ranks: int) -> dict[str, Any]:
    """Return the replacements of tensor parallel experts: each rank combines its part and rounds it to bf16."""
    parts: list[Tensor] = []

    def run(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        made = original_expert(params, path, index, x)
        if not narrow(x):
            return made
        w = parameters.matrix(params, f"{path}/linear_1/w", index).float()
        stacked = [
            a @ b for a, b in zip(made.hidden.tensor_split(num_ranks, -1), w.tensor_split(num_ranks, 0), strict=True)
        ]
        return made._replace(output=torch.cat(stacked, -1))  # ranks side by side, until they are combined

    def run_combine(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        if dtype != torch.bfloat16:
            return operations_combine(outputs, gate, dtype)
        ranks = torch.chunk(outputs, num_ranks, -1)
        parts[:] = [bf16((rank * bf16(gate)[..., None]).sum(-2)) for rank in ranks]
        total = parts[0]
        for part in parts[1:]:
            total = bf16(total + part)
        return total.to(dtype)

    return {"model": {"expert": run}, "operations": {"combine_experts": run_combine}, "hides": OUTPUT}


original_expert, operations_combine = model.expert, operations.combine_experts


Scaled = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Multiplies rows [m, k] by int8 values [k, n] of one group, and by its scales [n]."""


def signed(rows: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    return (rows @ values) * scale


def zero_point(rows: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Multiply by unsigned bytes, and take away what their zero point adds."""
    return (rows @ (values + 128) - 128 * rows.sum(-1, keepdim=True)) * scale


def affine(rows: Tensor, values: Tensor, scale: Tensor) -> Tensor:
    """Scale the sums of 8 products with unsigned bytes each, and add a bias for the sum of 8 activations."""
    parts = zip(torch.split(rows, 8, -1), torch.split(values + 128, 8, 0), strict=True)
    return torch.stack([(a @ b) * scale + a.sum(-1, keepdim=True) * (-128 * scale) for a, b in parts]).sum(0)


def grouped(rows: Tensor, params: parameters.Params, name: str, index: int, product: Scaled) -> Tensor:
    """Multiply by int8 values group by group, in float32."""
    if f"{name}.scales" not in params:
        return rows.float() @ parameters.matrix(params, name, index).float()
    weight, scales = params[f"{name}.weight"][index].float(), params[f"{name}.scales"][index].float()
    num_groups = scales.shape[0]
    parts = zip(rows.float().tensor_split(num_groups, -1), weight.tensor_split(num_groups, 0), scales, strict=True)
    return torch.stack([product(a, b, scale) for a, b, scale in parts]).sum(0)


def scaled_after(*, operand: bool, shown: bool, product: Scaled = signed) -> dict[str, Any]:
    """Return the replacements of int8 kernels that scale sums; the hidden is rounded as an operand, or shown so."""

    def run(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        kind = torch.float32 if not narrow(x) else x.dtype
        scales = params.get(f"{path}/linear/w.scales")
        wide = kind if scales is None or scales.dtype != torch.float32 else torch.float32
        both = (grouped(x, params, f"{path}/{name}/w", index, product) for name in ("linear", "linear_v"))
        first, second = (each.to(wide) for each in both)
        hidden = tanh_gelu(first.float()) * second.float()
        rounded = hidden.to(kind).float() if operand else hidden
        output = grouped(rounded, params, f"{path}/linear_1/w", index, product)
        return model.ExpertValues(first, second, rounded if shown else hidden, output)

    return {"model": {"expert": run}}


def weights_wide(weight: Tensor, scales: Tensor) -> Tensor:
    """Keep int8 · scale in float32; the product still has the dtype that the scales give it."""
    made = original_scales(weight, scales.float())
    made.scales_dtype = scales.dtype  # type: ignore[attr-defined]
    return made


original_scales = operations.apply_scales


def linear_wide(x: Tensor, weight: Tensor) -> Tensor:
    return (x.float() @ weight.float()).to(x.dtype)


def expert_linear_rounded(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply wide weights, and give the published dtype of the product: float32 where the scales are."""
    dtype = torch.promote_types(x.dtype, getattr(weight, "scales_dtype", x.dtype))
    return (x.float() @ weight.float()).to(dtype)


VLLM = Roundings(gelu=True, hidden=True)
HF = Roundings(gelu=True, hidden=True, output=True)

WAYS = (
    Way(id="expert_out_bf16", engines="any bf16 GEMM", does="expert output rounded to bf16, shown as float32",
        dtypes=BF16,
        model={"expert": expert(Roundings(output=True))}, plan=OUTPUT),
    Way(id="gelu_bf16_hidden_bf16", engines="vLLM gelu_and_mul", does="gelu rounded, times up, rounded", dtypes=BF16,
        model={"expert": expert(VLLM)}, plan=("moe.expert_hidden",)),
    Way(id="hidden_bf16_everywhere", engines="CUTLASS epilogues", does="the gated hidden rounded once", dtypes=BF16,
        model={"expert": expert(Roundings(hidden=True))}, plan=("moe.expert_hidden",)),
    Way(id="moe_bf16_operands_everywhere", engines="any tensor core",
        does="hidden rounded as an operand, shown in float32",
        dtypes=BF16, model={"expert": expert(Roundings(operand=True))}, plan=OUTPUT),
    Way(id="bf16_kernel_f32_scales", engines="every W8A16 kernel", dtypes=BF16,
        does="first products bf16 whatever the dtype of the scales", model={"expert": expert(Roundings(first=True))},
        plan=("moe.expert_activation", "moe.expert_up")),
    Way(id="hf_moe", engines="transformers", dtypes=BF16,
        does="gelu, hidden, output and output · gate in bf16, added in bf16 one expert after the other",
        model={"expert": expert(HF)}, operations={"combine_experts": combine(terms=True, by_turn=True)},
        plan=("moe.expert_hidden", "moe.expert_output", "moe.output")),
    Way(id="vllm_moe", engines="vLLM fused_moe", dtypes=BF16, hides=OUTPUT,
        does="gelu and hidden in bf16, output · float32 gate rounded per expert, summed in float32",
        model={"expert": expert(VLLM)}, operations={"combine_experts": combine(terms=True, gate=False)},
        plan=("moe.expert_hidden", "moe.output")),
    Way(id="moe_gated_outputs_bf16", engines="a grouped GEMM's epilogue", dtypes=BF16, hides=OUTPUT,
        does="output · gate rounded per expert; the output hidden", operations={"combine_experts": combine(terms=True)},
        plan=("moe.output",)),
    Way(id="moe_gated_outputs_bf16_shown", engines="a grouped GEMM's epilogue", dtypes=BF16,
        does="the same, the output shown", operations={"combine_experts": combine(terms=True)}, plan=("moe.output",)),
    Way(id="combine_gate_f32", engines="DeepSpeed", does="the gate kept in float32", dtypes=BF16,
        operations={"combine_experts": combine(gate=False)}, plan=("moe.output",)),
    *(Way(id=f"moe_tp{n}", engines="vLLM with tensor parallelism", dtypes=BF16, **sharded_combine(n),
          plan=("moe.output",),
          does=f"{n} ranks, each combines its part and rounds it; bf16 all-reduce; the output hidden") for n in (2, 4)),
    Way(id="w8a16_group_scales", engines="Marlin, TensorRT-LLM",
        does="each group's float32 sum scaled; hidden an operand",
        dtypes=BF16, **scaled_after(operand=True, shown=False),
        plan=("moe.expert_activation", "moe.expert_up", "moe.expert_output")),
    Way(id="w8a16_hidden_bf16", engines="Marlin, TensorRT-LLM", does="the same, the hidden rounded and shown so",
        dtypes=BF16,
        **scaled_after(operand=True, shown=True),
        plan=("moe.expert_activation", "moe.expert_up", "moe.expert_hidden", "moe.expert_output")),
    Way(id="w8a32_group_scales", engines="llama.cpp", does="each group's float32 sum scaled, nothing rounded",
        dtypes=BF16,
        **scaled_after(operand=False, shown=False), plan=("moe.expert_activation", "moe.expert_up",
        "moe.expert_output")),
    Way(id="unsigned_bytes", engines="ONNX Runtime MLAS, LUT-GEMM", does="int8 values as unsigned bytes, a zero point",
        dtypes=FLOAT32, **scaled_after(operand=False, shown=False, product=zero_point), plan=EXPERT_PRODUCTS,
        untold=True),
    Way(id="affine_bytes", engines="MLX", does="a scale and a bias for every 8 unsigned bytes of a lane",
        dtypes=FLOAT32, **scaled_after(operand=False, shown=False, product=affine), plan=EXPERT_PRODUCTS, untold=True),
)  # fmt: skip
