"""The operations of the graph, one function each, on plain tensors (SPEC §3, §4).

A product of bf16 operands is summed in float32 and rounded once; that is what torch does on the CPU, and a test holds
it to that. What a function makes anew lies where its inputs lie.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

NORM_EPSILON = 1e-5
ROPE_BASE = 10_000.0
LOGIT_CAP = 30.0
MASKED_LOGIT = -1e30


def apply_scales(weight: Tensor, scales: Tensor) -> Tensor:
    """Dequantize int8 [.., k, n] by scales [.., G, n], G contiguous groups of rows, in the scales' dtype (SPEC §3)."""
    groups = torch.unflatten(weight.to(scales.dtype), -2, (scales.shape[-2], -1))  # [.., G, k / G, n]
    return (groups * scales.unsqueeze(-2)).flatten(-3, -2)  # [.., k, n]


def linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [.., k] by a matrix [k, n] in the dtype of x (SPEC §4.4)."""
    return x @ weight.to(x.dtype)


# Embedding, norm, residual stream


def embed(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
    """Look tokens [b, t] up in the table [v, d] and multiply, with the multiplier in the table's dtype (SPEC §4.2)."""
    return table[tokens] * torch.tensor(multiplier, dtype=table.dtype)  # [b, t, d]


def unembed(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    """Project hidden [b, t, d] onto the table [v, d] and multiply, both in the dtype of hidden (SPEC §4.8)."""
    return linear(hidden, table.T) * torch.tensor(multiplier, dtype=hidden.dtype)  # [b, t, v]


def rms_norm(x: Tensor, scale: Tensor) -> Tensor:
    """Divide x [.., d] by its root mean square and multiply by scale [d], in float32 and cast back (SPEC §4)."""
    wide = x.float()
    inverse = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + NORM_EPSILON)
    return (wide * inverse * scale).to(x.dtype)


def residual(x: Tensor, update: Tensor) -> Tensor:
    """Add a block's normalised output to the residual stream, in its dtype (SPEC §4.5, §4.7)."""
    return x + update


# Attention


def query_positions(step: Tensor, num_tokens: int) -> Tensor:
    """Return the positions [b, t] of a call's tokens, counted from the start of each row's cache (SPEC §4.4)."""
    return step[:, None] + torch.arange(num_tokens, device=step.device)


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """Split [b, t, n·h] into heads [b, t, n, h]."""
    return torch.unflatten(x, -1, (num_heads, -1))


def rotate_half(x: Tensor) -> Tensor:
    """Return concat(-x2, x1) of the halves x1, x2 of the head axis (SPEC §4.4)."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def rotate(x: Tensor, positions: Tensor) -> Tensor:
    """Apply the rotary embedding to heads [b, t, n, h] at positions [b, t], in float32 and cast back (SPEC §4.4)."""
    head_width = x.shape[-1]
    # Made on the CPU: the powers of a GPU err by several units in the last place, times the position.
    inverse_frequencies = 1.0 / ROPE_BASE ** (torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    phase = positions[:, :, None].float() * inverse_frequencies.to(positions.device)  # [b, t, h / 2]
    phase = torch.cat((phase, phase), dim=-1)[:, :, None]  # [b, t, 1, h]
    wide = x.float()
    return (wide * phase.cos() + rotate_half(wide) * phase.sin()).to(x.dtype)


def update_cache(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Return the cache [b, s, g, h] with new keys or values [b, t, g, h] at positions [b, t] (SPEC §4.4, §5)."""
    rows = torch.arange(len(positions), device=positions.device)[:, None]
    return cache.index_put((rows, positions), new)


def visible_keys(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    """Return the cache slots that each query may see, bool [b, t, s] (SPEC §4.4).

    mask_in bool [b, t] masks keys of this call, never those of earlier calls. A single token masks its whole row.
    """
    device = positions.device
    causal = torch.arange(num_slots, device=device) <= positions[:, :, None]  # [b, t, s]
    if positions.shape[1] == 1:
        return causal & mask_in[:, :, None]
    rows = torch.arange(len(positions), device=device)[:, None]
    every = torch.ones(len(positions), num_slots, dtype=torch.bool, device=device)
    real = every.index_put((rows, positions), mask_in)  # [b, s]
    return causal & real[:, None]


def attended_slots(positions: Tensor, num_slots: int) -> Tensor:
    """Return the slots that the softmax runs over, bool [b, s]: below step + t, or all for one token (SPEC §4.4)."""
    if positions.shape[1] == 1:
        return torch.ones(len(positions), num_slots, dtype=torch.bool, device=positions.device)
    return torch.arange(num_slots, device=positions.device) <= positions[:, -1:]


def attention_logits(query: Tensor, keys: Tensor, multiplier: float) -> Tensor:
    """Return scaled products of query [b, t, q, h] and keys [b, s, g, h], float32 [b, g, r, t, s] (SPEC §4.4).

    Query head j uses KV head j // r. The products are rounded to the compute dtype before they are scaled.
    """
    grouped = torch.unflatten(query, 2, (keys.shape[2], -1))  # [b, t, g, r, h]
    return torch.einsum("btgrh,bsgh->bgrts", grouped, keys).float() * multiplier


def cap_logits(logits: Tensor) -> Tensor:
    """Bound attention logits smoothly to ±30 (SPEC §4.4)."""
    return LOGIT_CAP * torch.tanh(logits / LOGIT_CAP)


def mask_logits(logits: Tensor, visible: Tensor, attended: Tensor) -> Tensor:
    """Mask logits [b, g, r, t, s]: -1e30 where not visible [b, t, s], left out where not attended [b, s] (SPEC §4.4).

    The logits of a query that sees no key are then all equal, and it averages over the attended slots.
    """
    masked = torch.where(visible[:, None, None], logits, MASKED_LOGIT)
    return torch.where(attended[:, None, None, None], masked, -torch.inf)


def attention_weights(masked_logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the softmax over the slots s, computed in float32 and cast to dtype (SPEC §4.4)."""
    return torch.softmax(masked_logits, dim=-1).to(dtype)


def attention_heads(weights: Tensor, values: Tensor) -> Tensor:
    """Average values [b, s, g, h] by weights [b, g, r, t, s] into heads [b, t, q, h] (SPEC §4.4)."""
    return torch.einsum("bgrts,bsgh->btgrh", weights, values).flatten(2, 3)


# Feed-forward


def router_logits(x: Tensor, weight: Tensor) -> Tensor:
    """Score x [b, t, d] by the router's weight [d, e], float32 [b, t, e] (SPEC §4.6)."""
    return x.float() @ weight


def router_probabilities(logits: Tensor) -> Tensor:
    """Return the softmax over all experts, float32 [b, t, e] (SPEC §4.6)."""
    return torch.softmax(logits, dim=-1)


def top_k(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
    """Return the ids int64 [b, t, c] of the most probable experts and their probabilities, the gates (SPEC §4.6).

    Ties go to the lowest id; the gates are not renormalised.
    """
    # torch.topk leaves the order of ties open; a stable sort keeps the lowest id first.
    gate, index = torch.sort(probabilities, dim=-1, descending=True, stable=True)
    return index[..., :num_selected_experts], gate[..., :num_selected_experts]


def gelu(x: Tensor) -> Tensor:
    """Return the tanh form of gelu, computed in float32 and cast back (SPEC §4.6)."""
    return functional.gelu(x, approximate="tanh")


def gated_hidden(activation: Tensor, up: Tensor) -> Tensor:
    """Return gelu(activation) · up in their dtype (SPEC §4.6)."""
    return gelu(activation) * up


def expert_linear(x: Tensor, weight: Tensor) -> Tensor:
    """Multiply x [n, k] by one expert's matrix [k, m] in the wider of their dtypes (SPEC §4.6, §9)."""
    dtype = torch.promote_types(x.dtype, weight.dtype)
    return x.to(dtype) @ weight.to(dtype)


def combine_experts(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
    """Sum outputs [b, t, c, d] times gates [b, t, c] rounded to dtype; float32 inside, cast once (SPEC §4.6)."""
    return (outputs * gate.to(dtype).float()[..., None]).sum(dim=-2).to(dtype)
