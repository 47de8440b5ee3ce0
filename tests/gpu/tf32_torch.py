"""The torch port with TF32 allowed: its float32 products must be told. Without a GPU the operands are rounded to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import operations
from grok_conformance.candidates.torch_eager.model import TorchModel
from grok_conformance.candidates.torch_eager.parameters import device_here
from grok_conformance.harness.contract import LanguageModelConfig, Weights

INFO = replace(torch_eager.INFO, name="tf32_torch")

PRODUCTS = ("linear", "router_logits", "expert_linear", "attention_logits", "attention_heads")
RIGHT = {name: getattr(operations, name) for name in PRODUCTS}


def tf32(x: Any) -> Any:
    """Round a float32 tensor to ten bits of mantissa, as a GPU's conversion does; leave all else alone."""
    if not isinstance(x, Tensor) or x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def of_rounded(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    return lambda *operands: function(*map(tf32, operands))


def load(config: LanguageModelConfig, weights: Weights) -> TorchModel:
    model = torch_eager.load(config, weights)
    torch.set_float32_matmul_precision("high")
    if device_here().type == "cpu":
        for name, function in RIGHT.items():
            setattr(operations, name, of_rounded(function))
    return model
