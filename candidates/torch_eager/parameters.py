"""Configuration and stored weights: checked, and brought from NumPy into torch (SPEC §1, §2)."""

from __future__ import annotations

from collections.abc import Mapping

import ml_dtypes
import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.contract import Array, LanguageModelConfig, Unsupported, Weights

FPROP_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}

Params = Mapping[str, Tensor]
"""Parameters by stored name; a quantised matrix `w` is the pair `w.weight` (int8) and `w.scales` (SPEC §2)."""


def to_torch(array: Array) -> Tensor:
    """Copy an array into a tensor of the same dtype; bf16, unknown to NumPy itself, travels as int16."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
    return torch.tensor(array)


def to_numpy(tensor: Tensor) -> Array:
    """Copy a tensor of any device into an array of the same dtype."""
    tensor = tensor.cpu()
    if tensor.dtype == torch.bfloat16:
        return np.array(tensor.contiguous().view(torch.int16).numpy()).view(ml_dtypes.bfloat16)
    return np.array(tensor.numpy())


def check_config(config: LanguageModelConfig) -> None:
    """Raise Unsupported for another compute dtype, ValueError for sizes that do not fit together (SPEC §1)."""
    model = config.model
    if config.fprop_dtype not in FPROP_DTYPES:
        raise Unsupported(f"fprop_dtype {config.fprop_dtype!r}: torch_eager computes in {' or '.join(FPROP_DTYPES)}")
    if model.num_q_heads % model.num_kv_heads:
        raise ValueError(f"num_q_heads {model.num_q_heads} must be a multiple of num_kv_heads {model.num_kv_heads}")
    if model.key_size % 2:
        raise ValueError(f"key_size {model.key_size} must be even: the rotary embedding splits heads into halves")
    if not config.dense and not 1 <= model.num_selected_experts <= model.num_experts:
        raise ValueError(f"num_selected_experts {model.num_selected_experts} must lie in 1..{model.num_experts}")


def parameter_shapes(config: LanguageModelConfig) -> dict[str, tuple[int, ...]]:
    """Return the shape of every parameter by `module_path/name` (SPEC §2)."""
    size = config.axis_sizes
    d, f, e = size["d"], size["f"], size["e"]
    query_width, key_width = size["q"] * size["h"], size["g"] * size["h"]
    layer: dict[str, tuple[int, ...]] = {
        **{f"rms_norm{suffix}/scale": (d,) for suffix in ("", "_1", "_2", "_3")},
        "multi_head_attention/query/w": (d, query_width),
        "multi_head_attention/key/w": (d, key_width),
        "multi_head_attention/value/w": (d, key_width),
        "multi_head_attention/linear/w": (query_width, d),
    }
    if config.dense:
        layer |= {"linear/w": (d, f), "linear_v/w": (d, f), "linear_1/w": (f, d)}
    else:
        layer |= {"router/w": (d, e)}
        layer |= {"moe/linear/w": (e, d, f), "moe/linear_v/w": (e, d, f), "moe/linear_1/w": (e, f, d)}
    return {
        "language_model/in_out_embed/embeddings": (config.vocab_size, d),
        "language_model/rms_norm/scale": (d,),
        **{
            f"transformer/decoder_layer_{i}/{name}": shape
            for i in range(config.model.num_layers)
            for name, shape in layer.items()
        },
    }


def check_weights(shapes: Mapping[str, tuple[int, ...]], weights: Weights) -> None:
    """Raise ValueError for a parameter that is missing, unknown, of another shape, or without its scales (SPEC §2)."""
    known = {stored for name in shapes for stored in (name, f"{name}.weight", f"{name}.scales")}
    if unknown := sorted(set(weights) - known):
        raise ValueError(f"weights: {unknown[0]} is not a parameter of this configuration; remove it")
    for name, shape in shapes.items():
        weight = weights.get(name, weights.get(f"{name}.weight"))
        if weight is None:
            raise ValueError(f"weights: {name} is missing; store it plain or as {name}.weight and {name}.scales")
        if weight.shape != shape:
            raise ValueError(f"weights: {name} has shape {weight.shape}; the configuration needs {shape}")
        if (weight.dtype == np.int8) == (name in weights):
            raise ValueError(f"weights: {name} is {weight.dtype}; store floats plain and int8 as {name}.weight")
        if name not in weights:
            check_scales(name, shape, weights.get(f"{name}.scales"))


def check_scales(name: str, shape: tuple[int, ...], scales: Array | None) -> None:
    """Raise ValueError unless scales [.., G, n] belong to a matrix of shape [.., k, n] and G divides k (SPEC §3)."""
    if scales is None:
        raise ValueError(f"weights: {name}.scales is missing; store it beside {name}.weight")
    *experts, num_rows, num_columns = shape
    num_groups = scales.shape[-2] if scales.ndim == len(shape) else 0
    if scales.shape != (*experts, num_groups, num_columns) or num_groups < 1 or num_rows % num_groups:
        expected = (*experts, "G", num_columns)
        raise ValueError(f"weights: {name}.scales has shape {scales.shape}; use {expected} with G dividing {num_rows}")


def cast(name: str, stored: Tensor, fprop: torch.dtype) -> Tensor:
    """Return a stored parameter in the dtype that it is used in (SPEC §3, §4).

    int8 stays, and a dequantized weight takes the dtype of its scales, which are never narrowed. Norm scales and router
    weights are float32.
    """
    if name.endswith(".weight"):
        return stored
    if name.endswith(".scales"):
        return stored.to(torch.promote_types(stored.dtype, fprop))
    return stored.to(torch.float32 if name.endswith(("/scale", "/router/w")) else fprop)


def load_params(config: LanguageModelConfig, weights: Weights) -> Params:
    """Return the stored weights as tensors (SPEC §2); raises ValueError when they do not fit the configuration."""
    check_weights(parameter_shapes(config), weights)
    fprop = FPROP_DTYPES[config.fprop_dtype]
    return {name: cast(name, to_torch(array), fprop) for name, array in weights.items()}


def device_here() -> torch.device:
    """Return where the port computes: a GPU if torch sees one (CUDA_VISIBLE_DEVICES= hides it), else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def placed(params: Params, device: torch.device) -> Params:
    """Return parameters on a device."""
    return {name: parameter.to(device) for name, parameter in params.items()}


def matrix(params: Params, name: str, expert: int | None = None) -> Tensor:
    """Return a weight matrix [k, n], or one expert's of [e, k, n], dequantized if it is stored as int8 (SPEC §3)."""

    def select(tensor: Tensor) -> Tensor:
        return tensor if expert is None else tensor[expert]

    if name in params:
        return select(params[name])
    return operations.apply_scales(select(params[f"{name}.weight"]), select(params[f"{name}.scales"]))
