"""A torch port with two faults of real ports: `scales_interleaved` in layer 0 and `gelu_erf` in layer 1."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations
from grok_conformance.harness.contract import LanguageModelConfig, Weights

INFO = replace(torch_eager.INFO, name="broken_port")

RIGHT = {name: getattr(operations, name) for name in ("apply_scales", "gelu")}
RIGHT_LAYER = model.decoder_layer


def interleaved_scales(weight: Tensor, scales: Tensor) -> Tensor:
    rows = torch.arange(weight.shape[-2]) % scales.shape[-2]
    return weight.to(scales.dtype) * scales[..., rows, :]


def broken_layer(config: Any, params: Any, path: str, *rest: Any) -> Any:
    layer = path.rpartition("_")[2]
    setattr(operations, "apply_scales", interleaved_scales if layer == "0" else RIGHT["apply_scales"])  # noqa: B010
    setattr(operations, "gelu", functional.gelu if layer == "1" else RIGHT["gelu"])  # noqa: B010
    return RIGHT_LAYER(config, params, path, *rest)


def load(config: LanguageModelConfig, weights: Weights) -> model.TorchModel:
    setattr(model, "decoder_layer", broken_layer)  # noqa: B010
    return torch_eager.load(config, weights)
