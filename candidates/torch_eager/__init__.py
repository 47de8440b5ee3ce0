"""Grok-1 in eager PyTorch: prefill, chunked prefill and decoding with a cache (SPEC §2-§5), on a GPU if there is one.

Eager execution rounds wherever the specification says bf16. Weights stay as they are stored: an int8 matrix is
dequantized when it is used, and an expert only when a token chose it.
"""

from __future__ import annotations

import torch

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.candidates.torch_eager.model import TorchModel
from grok_conformance.candidates.torch_eager.parameters import (
    check_config,
    device_here,
    load_params,
    placed,
    to_numpy,
    to_torch,
)
from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Weights

__all__ = ["INFO", "dequantize", "load"]

INFO = CandidateInfo(name="torch_eager", version=str(torch.__version__))


def load(config: LanguageModelConfig, weights: Weights) -> TorchModel:
    """Return a model with the stored weights (SPEC §2); products are pinned to float32 sums, without TF32 (SPEC §4).

    Raises Unsupported for a compute dtype other than float32 and bfloat16, ValueError for a configuration or weights
    that cannot be run.
    """
    check_config(config)
    torch.set_float32_matmul_precision("highest")
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # partial sums would be rounded on a GPU
    return TorchModel(config, placed(load_params(config, weights), device_here()))


def dequantize(weight: Array, scales: Array) -> Array:
    """Return the matrix [.., k, n] that bf16 computes with, in the scales' dtype (float32 widens the scales first).

    weight int8 [.., k, n], scales [.., G, n] of G contiguous groups of rows (SPEC §3).
    """
    return to_numpy(operations.apply_scales(to_torch(weight), to_torch(scales)))
