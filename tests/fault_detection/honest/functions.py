"""Ways to compute gelu: other formulas, and the approximations of hardware with their documented errors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tests.fault_detection.honest.attention import tanh_approx, tanh_sigmoid
from tests.fault_detection.honest.experts import FACTOR
from tests.fault_detection.honest.products import BF16, bf16
from tests.fault_detection.honest.way import Way

HIDDEN = ("moe.expert_hidden", "dense.hidden")


def inner(x: Tensor) -> Tensor:
    return FACTOR * (x + 0.044715 * x * x * x)


def by_sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(2 * inner(x))


def by_sigmoid_approx(x: Tensor) -> Tensor:
    """ex2.approx and rcp.approx err by 2^-22 and 2^-23 at most (PTX ISA)."""
    exponential = torch.exp(-2 * inner(x))
    exponential = exponential * (1 + 2.0**-22 * torch.cos(x * 1e4))
    return x * (1 / (1 + exponential)) * (1 + 2.0**-23 * torch.sin(x * 1e4))


def by_tanh_sigmoid(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + tanh_sigmoid(inner(x)))


def by_tanh_approx(x: Tensor) -> Tensor:
    return 0.5 * x * (1 + tanh_approx(inner(x)))


def table_f16(x: Tensor) -> Tensor:
    """ggml's table of gelu, argument and result in float16."""
    return functional.gelu(x.half().float(), approximate="tanh").half().float()


def in_bf16(x: Tensor) -> Tensor:
    cubed = bf16(bf16(x * x) * x)
    argument = bf16(FACTOR * bf16(x + bf16(0.044715 * cubed)))
    return bf16(bf16(0.5 * x) * bf16(1 + bf16(torch.tanh(argument))))


def gelu_by(function: object) -> dict[str, object]:
    """Return the replacement of gelu, computed in float32 and cast back."""

    def gelu(x: Tensor) -> Tensor:
        return function(x.float()).to(x.dtype)  # type: ignore[operator]

    return {"gelu": gelu}


def gated_bf16(activation: Tensor, up: Tensor) -> Tensor:
    return in_bf16(activation.float()).to(activation.dtype) * up


WAYS = (
    Way(id="gelu_sigmoid", engines="MLX, Triton", does="x·sigmoid(2·0.7979·(x + 0.0447x³))",
        operations=gelu_by(by_sigmoid)),
    Way(id="gelu_sigmoid_approx", engines="CUDA fast math", does="the same with ex2.approx and rcp.approx",
        operations=gelu_by(by_sigmoid_approx)),
    Way(id="gelu_tanh_2sigmoid", engines="Triton", does="gelu with tanh(y) = 2·sigmoid(2y) - 1",
        operations=gelu_by(by_tanh_sigmoid)),
    Way(id="gelu_tanh_approx", engines="CUTLASS fast tanh", does="gelu with tanh.approx (2^-11)",
        operations=gelu_by(by_tanh_approx), plan=HIDDEN),
    Way(id="gelu_table_f16", mark="wrong", engines="llama.cpp", does="gelu through a float16 table",
        operations=gelu_by(table_f16), fault="gelu_fp16_table"),
    Way(id="gelu_all_bf16", mark="wrong", engines="a port", does="every step of gelu in bf16", dtypes=BF16,
        operations={"gated_hidden": gated_bf16}, fault="gelu_bf16"),
)  # fmt: skip
