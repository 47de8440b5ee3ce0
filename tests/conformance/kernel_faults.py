"""Faults of kernels put into `torch_eager`: for each its operations, the cases that show it, and its patches."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations, parameters
from tests.conformance.port_patch import Fault, fault

RIGHT = {name: getattr(operations, name) for name in dir(operations)}
EXPERT, ATTENTION = model.expert, model.attention

PREFILL, DECODE = "unequal/prefill/padded_batch.*", "unequal/decode/unequal_lengths.*"


def merged(size: int, factor: float) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Softmax in parts of so many slots, merged by their log-sum-exp times a factor."""

    def weights(logits: Tensor, dtype: torch.dtype) -> Tensor:
        parts = torch.split(logits, size, -1)
        sums = torch.stack([torch.logsumexp(part, -1) for part in parts], -1)
        shares = torch.softmax(sums * factor, -1)
        each = [torch.nan_to_num(torch.softmax(part, -1)) * shares[..., i, None] for i, part in enumerate(parts)]
        return torch.cat(each, -1).to(dtype)

    return weights


def accumulator_kept(axis: int) -> Callable[[Tensor, Tensor], Tensor]:
    def heads(weights: Tensor, values: Tensor) -> Tensor:
        averaged: Tensor = RIGHT["attention_heads"](weights.float(), values.float())
        return averaged.cumsum(axis).to(values.dtype)

    return heads


def first_row(weights: Tensor, values: Tensor) -> Tensor:
    heads: Tensor = RIGHT["attention_heads"](weights, values)
    return heads[:1].expand_as(heads)


def summed_in_bf16(weights: Tensor, values: Tensor) -> Tensor:
    terms = torch.einsum("bgrts,bsgh->sbtgrh", weights.float(), values.float())
    total = torch.zeros_like(terms[0])
    for term in terms:
        total = (total + term).bfloat16().float()
    return total.flatten(2, 3).to(values.dtype)


def channels_first(config: Any, params: Any, path: str, x: Tensor, *rest: Any) -> Any:
    """Split the values' columns as [h, g]: the same as a matrix whose columns stand in that order."""
    g, h = config.num_kv_heads, config.key_size
    order = torch.arange(g * h).reshape(h, g).T.reshape(-1)
    changed = {name: w[..., order] if f"{path}/value/" in name else w for name, w in params.items()}
    return ATTENTION(config, changed, path, x, *rest)


def gate_twice(config: Any, params: parameters.Params, path: str, x: Tensor, tap: model.Tap) -> Tensor:
    logits = tap("router.logits", operations.router_logits(x, params[f"{path}/router/w"]))
    probabilities = tap("router.probabilities", operations.router_probabilities(logits))
    index, gate = operations.top_k(probabilities, config.num_selected_experts)
    tap("moe.expert_index", index.to(torch.int32))
    tap("moe.expert_gate", gate)
    ranks = range(index.shape[-1])
    gated = [(x.float() * gate[..., c, None]).to(x.dtype) for c in ranks]
    made = [model.run_experts(params, f"{path}/moe", gated[c], index[..., [c]], config.num_experts) for c in ranks]
    values = model.ExpertValues(*(torch.cat(each, 2) for each in zip(*made, strict=True)))
    for name, value in values._asdict().items():
        tap(f"moe.expert_{name}", value)
    return operations.combine_experts(values.output, gate, x.dtype)


def first_gate(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    combined: Tensor = RIGHT["combine_experts"](outputs, gate[..., :1].expand_as(gate), dtype)
    return combined


def scales_by(change: Callable[[Tensor], Tensor]) -> Callable[..., model.ExpertValues]:
    def expert(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        changed = {
            name: change(w) if name.startswith(path) and name.endswith(".scales") else w for name, w in params.items()
        }
        return EXPERT(changed, path, index, x)

    return expert


def averaged(scales: Tensor) -> Tensor:
    return scales.float().mean(0, keepdim=True).to(scales.dtype).expand_as(scales)


def in_tiles_of_4(weight: Tensor, scales: Tensor) -> Tensor:
    if scales.shape[-1] % 4 == 0:
        scales = torch.unflatten(scales, -1, (4, -1)).transpose(-1, -2).flatten(-2)
    dequantized: Tensor = RIGHT["apply_scales"](weight, scales)
    return dequantized


def scaled_norm(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    scaled = wide / wide.abs().amax(-1, keepdim=True).clamp(min=1e-30)
    inverse = torch.rsqrt(scaled.square().mean(-1, keepdim=True) + operations.NORM_EPSILON)
    return (scaled * inverse * scale).to(x.dtype)


def norm_with_eps_outside(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    root = wide.square().mean(-1, keepdim=True).sqrt() + operations.NORM_EPSILON
    return (wide / root * scale).to(x.dtype)


NORMS = "attention.norm attention.output_norm moe.norm moe.output_norm final_norm"
QUANTISED = (
    "attention.query attention.key attention.value attention.output "
    "moe.expert_activation moe.expert_up moe.expert_output"
)

KERNEL_FAULTS: Mapping[str, Fault] = {
    "merged_in_base_2_every_16": fault(
        "attention.weights", "sweep_prefixes/sweep/continued.*", attention_weights=merged(16, math.log(2))
    ),
    "merged_in_base_e_every_32": fault(
        "attention.weights", "sweep_prefixes/sweep/continued.*", attention_weights=merged(32, 1 / math.log(2))
    ),
    "cap_not_multiplied_back": fault("attention.logits", PREFILL, cap_logits=lambda x: torch.tanh(x / 30)),
    "value_heads_split_channels_first": fault("attention.value", PREFILL, model={"attention": channels_first}),
    "accumulator_kept_between_rows": fault("attention.heads", PREFILL, attention_heads=accumulator_kept(0)),
    "accumulator_kept_between_tokens": fault("attention.heads", PREFILL, attention_heads=accumulator_kept(1)),
    "heads_of_the_first_row": fault("attention.heads", PREFILL, attention_heads=first_row),
    "heads_accumulated_in_bf16_every_1": fault("attention.heads", DECODE, attention_heads=summed_in_bf16),
    "gate_on_input_and_output": fault(
        "moe.expert_activation moe.expert_up", PREFILL, model={"moe_block": gate_twice}
    ),
    "gate_of_the_first_choice": fault("moe.output", PREFILL, combine_experts=first_gate),
    "scales_averaged_over_experts": fault(
        "moe.expert_activation moe.expert_up moe.expert_output", PREFILL, model={"expert": scales_by(averaged)}
    ),
    "scales_of_the_first_expert": fault(
        "moe.expert_activation moe.expert_up moe.expert_output", PREFILL,
        model={"expert": scales_by(lambda scales: scales[:1].expand_as(scales))},
    ),
    "scales_in_tiles_of_4": fault(QUANTISED, PREFILL, apply_scales=in_tiles_of_4),
    "norm_eps_scaled": fault(NORMS, PREFILL, rms_norm=scaled_norm),
    "norm_eps_outside": fault(NORMS, PREFILL, rms_norm=norm_with_eps_outside),
}  # fmt: skip
"""Every such fault by the name of its row."""
