"""Faults of real ports (the fault catalogue), put into `torch_eager` by hand as a porter would have made them.

A patch replaces names of `candidates.torch_eager`, `.operations` or `.model`; `at` are the operations at which the
harness must find the fault, and no other; `cases` a glob of the cases that show it. Nothing here knows the fault table.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from grok_conformance.candidates.torch_eager import operations
from tests.conformance.port_patch import Fault, fault
from tests.conformance.porting_structure_faults import STRUCTURAL_FAULTS

PREFILL = "unequal/prefill/padded_batch.*"
DECODE = "unequal/decode/unequal_lengths.*"
STRESS = "stress/prefill/saturated_cap.*"
LONG = "long/decode/large_positions.*"
REALISTIC = "realistic/prefill/near_ties.*"


ORIGINAL = {name: getattr(operations, name) for name in dir(operations) if callable(getattr(operations, name))}
CAP = operations.LOGIT_CAP


def renormalised_top_k(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    index, gate = ORIGINAL["top_k"](probabilities, k)
    return index, gate / gate.sum(-1, keepdim=True)


def softmax_after_top_k(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    index, gate = ORIGINAL["top_k"](probabilities, k)
    return index, torch.softmax(gate.log(), -1)


def gelu_by_table(x: Tensor) -> Tensor:
    looked_up = functional.gelu(x.half().float(), approximate="tanh").half().float()  # what 65,536 entries hold
    return torch.where(x.abs() < 10, looked_up, functional.relu(x)).to(x.dtype)


def second_best_first(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    gate, index = torch.sort(probabilities, dim=-1, descending=True)
    return index[..., 1 : k + 1], gate[..., 1 : k + 1]


def interleaved_rotate(x: Tensor, positions: Tensor) -> Tensor:
    h = x.shape[-1]
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, h, 2, dtype=torch.float32) / h)
    phase = (positions[:, :, None].float() * frequencies)[:, :, None]
    even, odd = x.float()[..., 0::2], x.float()[..., 1::2]
    cos, sin = phase.cos(), phase.sin()
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2).to(x.dtype)


def rotate_with(change: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def rotate(x: Tensor, positions: Tensor) -> Tensor:
        rotated: Tensor = ORIGINAL["rotate"](x, change(positions))
        return rotated

    return rotate


def rotate_the_other_way(x: Tensor, positions: Tensor) -> Tensor:
    return rotate_with(torch.neg)(x, positions)


def interleaved_scales(weight: Tensor, scales: Tensor) -> Tensor:
    rows = torch.arange(weight.shape[-2]) % scales.shape[-2]
    return weight.to(scales.dtype) * scales[..., rows, :]


def first_scale_row(weight: Tensor, scales: Tensor) -> Tensor:
    return weight.to(scales.dtype) * scales[..., :1, :]


def unsigned_scales(weight: Tensor, scales: Tensor) -> Tensor:
    restored: Tensor = ORIGINAL["apply_scales"](weight.to(torch.int16) % 256, scales)
    return restored


def strided_logits(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    strided = torch.unflatten(query, 2, (-1, keys.shape[2]))  # [b, t, r, g, h]
    return torch.einsum("btrgh,bsgh->bgrts", strided, keys).float() * multiplier


def tiled_logits(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    num_kv_heads = keys.shape[2]
    repeats = query.shape[2] // num_kv_heads
    logits = torch.einsum("btqh,bsqh->bqts", query, keys.repeat(1, 1, repeats, 1)).float() * multiplier
    return torch.unflatten(logits, 1, (num_kv_heads, repeats))


def tiled_heads(weights: Tensor, values: Tensor) -> Tensor:
    return torch.einsum("bqts,bsqh->btqh", weights.flatten(1, 2), values.repeat(1, 1, weights.shape[2], 1))


def tf32(x: Tensor) -> Tensor:
    return ((x.float().view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def highest_tie_first(probabilities: Tensor, k: int) -> tuple[Tensor, Tensor]:
    gate, index = torch.sort(probabilities.flip(-1), dim=-1, descending=True, stable=True)
    return probabilities.shape[-1] - 1 - index[..., :k], gate[..., :k]


def rotate_with_bf16_tables(x: Tensor, positions: Tensor) -> Tensor:
    h = x.shape[-1]
    frequencies = 1.0 / 10_000.0 ** (torch.arange(0, h, 2, dtype=torch.float32) / h)
    phase = (positions[:, :, None].float() * frequencies).repeat(1, 1, 2)[:, :, None]
    cos, sin = phase.cos().bfloat16(), phase.sin().bfloat16()
    return (x.float() * cos + operations.rotate_half(x.float()) * sin).to(x.dtype)


def longest_rows_positions(positions: Tensor) -> Tensor:
    return positions.amax(0, keepdim=True).expand_as(positions)


def fp8_cache(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    scale = new.abs().max().float() / torch.finfo(torch.float8_e4m3fn).max
    stored = (new.float() / scale).to(torch.float8_e4m3fn)
    updated: Tensor = ORIGINAL["update_cache"](cache, stored.to(cache.dtype), positions)
    return updated


def zero_head(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    head = torch.zeros_like(table)  # never filled by a checkpoint that ties it
    projected: Tensor = ORIGINAL["unembed"](hidden, head, multiplier)
    return projected


def visible_with_pads(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    visible: Tensor = ORIGINAL["visible_keys"](torch.ones_like(mask_in), positions, num_slots)
    return visible


def strictly_causal(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    visible: Tensor = ORIGINAL["visible_keys"](mask_in, positions, num_slots)
    return visible & (torch.arange(num_slots) < positions.clamp(min=1)[:, :, None])


def everything_visible(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    visible: Tensor = ORIGINAL["visible_keys"](mask_in, positions, num_slots)
    attended: Tensor = ORIGINAL["attended_slots"](positions, num_slots)
    return visible | attended[:, None]


def mask_before_cap(logits: Tensor, visible: Tensor, attended: Tensor) -> Tensor:
    masked = torch.where(visible[:, None, None], logits, -1e30)
    capped = CAP * torch.tanh(masked / CAP)
    return torch.where(attended[:, None, None, None], capped, -torch.inf)


def bf16_softmax(masked_logits: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.softmax(masked_logits.bfloat16(), dim=-1).to(dtype)


def layer_norm(x: Tensor, scale: Tensor) -> Tensor:
    wide = x.float()
    return functional.layer_norm(wide, wide.shape[-1:], scale, None, 1e-5).to(x.dtype)


def norm_plus_one(x: Tensor, scale: Tensor) -> Tensor:
    normed: Tensor = ORIGINAL["rms_norm"](x, 1 + scale)
    return normed


def sqrt_embed(table: Tensor, tokens: Tensor, _multiplier: float) -> Tensor:
    embedded: Tensor = ORIGINAL["embed"](table, tokens, math.sqrt(table.shape[-1]))
    return embedded


def plain_embed(table: Tensor, tokens: Tensor, _multiplier: float) -> Tensor:
    return table[tokens]


def plain_unembed(hidden: Tensor, table: Tensor, _multiplier: float) -> Tensor:
    projected: Tensor = ORIGINAL["linear"](hidden, table.T)
    return projected


FAULTS: Mapping[str, Fault] = {
    "gates_renormalised": fault("moe.expert_gate", PREFILL, top_k=renormalised_top_k),
    "softmax_after_top_k": fault("moe.expert_gate", REALISTIC, top_k=softmax_after_top_k),
    "top_k_off_by_one": fault("moe.expert_index", PREFILL, top_k=second_best_first),
    "router_logits_capped": fault(
        "router.logits", REALISTIC,
        router_logits=lambda x, weight: CAP * torch.tanh(x.float() @ weight / CAP),
    ),
    "router_in_bf16": fault(
        "router.logits", REALISTIC,
        router_logits=lambda x, weight: (x.bfloat16() @ weight.bfloat16()).float(),
    ),
    "router_tf32": fault(
        "router.logits", REALISTIC, router_logits=lambda x, weight: tf32(x) @ tf32(weight)
    ),
    "top_1_only": fault(
        "moe.expert_index moe.expert_gate moe.expert_activation moe.expert_up moe.expert_hidden moe.expert_output "
        "moe.output",
        PREFILL, top_k=lambda probabilities, k: ORIGINAL["top_k"](probabilities, k - 1),
    ),
    "top_k_tie_highest_index": fault(
        "", "ties/prefill/exact_ties.*", top_k=highest_tie_first
    ),
    "gelu_quick": fault("moe.expert_hidden", STRESS, gelu=lambda x: x * torch.sigmoid(1.702 * x)),
    "gelu_erf": fault("moe.expert_hidden", STRESS, gelu=functional.gelu),
    "gelu_fp16_table": fault("moe.expert_hidden", STRESS, gelu=gelu_by_table),
    "silu_for_gelu": fault("moe.expert_hidden", STRESS, gelu=functional.silu),
    "relu_glu": fault("moe.expert_hidden", PREFILL, gated_hidden=lambda activation, _up: ORIGINAL["gelu"](activation)),
    "up_gate_swapped": fault(
        "moe.expert_hidden", PREFILL, gated_hidden=lambda activation, up: ORIGINAL["gelu"](up) * activation
    ),
    "attention_cap_missing": fault("attention.logits", STRESS, cap_logits=lambda logits: logits),
    "attention_cap_hard": fault("attention.logits", STRESS, cap_logits=lambda logits: logits.clamp(-CAP, CAP)),
    "attention_cap_50": fault("attention.logits", STRESS, cap_logits=lambda logits: 50 * torch.tanh(logits / 50)),
    "attention_scale_missing": fault(
        "attention.logits", PREFILL,
        attention_logits=lambda query, keys, _multiplier: ORIGINAL["attention_logits"](query, keys, 1.0),
    ),
    "cap_after_mask": fault("attention.weights", PREFILL, mask_logits=mask_before_cap),
    "softmax_bf16": fault("attention.weights", STRESS, attention_weights=bf16_softmax),
    "mask_strict": fault("attention.weights", PREFILL, visible_keys=strictly_causal),
    "mask_absent": fault("attention.weights", PREFILL, visible_keys=everything_visible),
    "padding_attended": fault(
        "attention.weights", "unequal/decode/pads_in_cache.*", visible_keys=visible_with_pads
    ),
    "gqa_strided": fault("attention.logits", PREFILL, attention_logits=strided_logits),
    "gqa_tiled": fault(
        "attention.logits attention.heads", PREFILL, attention_logits=tiled_logits, attention_heads=tiled_heads
    ),
    "attention_scale_double": fault(
        "attention.logits", PREFILL,
        attention_logits=lambda query, keys, multiplier: ORIGINAL["attention_logits"](
            query, keys, multiplier / math.sqrt(query.shape[-1])
        ),
    ),
    "rope_interleaved": fault(
        "attention.query_rotated attention.key_rotated", PREFILL, rotate=interleaved_rotate
    ),
    "rope_base_wrong": fault(
        "attention.query_rotated attention.key_rotated", PREFILL, ROPE_BASE=500_000.0
    ),
    "rope_cos_sin_bf16": fault(
        "attention.query_rotated attention.key_rotated", PREFILL, rotate=rotate_with_bf16_tables
    ),
    "left_pad_positions_shared": fault(
        "attention.query_rotated attention.key_rotated", DECODE, rotate=rotate_with(longest_rows_positions)
    ),
    "cache_fp8_scale_dropped": fault("kv.keys kv.values", PREFILL, update_cache=fp8_cache),
    "rope_sign": fault("attention.query_rotated attention.key_rotated", PREFILL, rotate=rotate_the_other_way),
    "rope_position_bf16": fault(
        "attention.query_rotated attention.key_rotated", LONG,
        rotate=rotate_with(lambda positions: positions.to(torch.bfloat16)),
    ),
    "rope_position_tf32": fault(
        "attention.query_rotated attention.key_rotated", LONG,
        rotate=rotate_with(lambda positions: torch.where(positions > 2048, (positions + 1) // 2 * 2, positions)),
    ),
    "decode_position_zero": fault(
        "attention.query_rotated attention.key_rotated", DECODE,
        rotate=rotate_with(lambda positions: positions - positions[:, :1]),
    ),
    "embedding_multiplier_missing": fault("embedding", PREFILL, embed=plain_embed),
    "embedding_multiplier_sqrt_d": fault("embedding", PREFILL, embed=sqrt_embed),
    "output_multiplier_missing": fault("logits", PREFILL, unembed=plain_unembed),
    "head_untied": fault("logits", PREFILL, unembed=zero_head),
    "norm_eps_1e6": fault(
        "attention.norm attention.output_norm moe.norm moe.output_norm final_norm", "*/prefill/*", NORM_EPSILON=1e-6
    ),
    "norm_scale_plus_one": fault(
        "attention.norm attention.output_norm moe.norm moe.output_norm final_norm", PREFILL, rms_norm=norm_plus_one
    ),
    "norm_mean_subtracted": fault(
        "attention.norm attention.output_norm moe.norm moe.output_norm final_norm", PREFILL, rms_norm=layer_norm
    ),
    "scales_interleaved": fault(
        "attention.output moe.expert_output", PREFILL, apply_scales=interleaved_scales
    ),
    "scales_per_shard_broadcast": fault(
        "attention.output moe.expert_output", PREFILL, apply_scales=first_scale_row
    ),
    "int8_as_uint8": fault(
        "attention.query attention.key attention.value attention.output "
        "moe.expert_activation moe.expert_up moe.expert_output",
        PREFILL, apply_scales=unsigned_scales,
    ),
    **STRUCTURAL_FAULTS,
}  # fmt: skip
