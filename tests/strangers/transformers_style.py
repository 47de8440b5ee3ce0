"""Grok-1 as a stranger would write it for transformers: separate projections, layers that return tuples, a grown cache.

It knows nothing of the harness; parameter names are its own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Cache = tuple[Tensor, Tensor]


class Grok1RMSNorm(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5) * self.weight.float()).to(x.dtype)


def rotate(x: Tensor, start: int = 0) -> Tensor:
    half = x.shape[-1] // 2
    angles = torch.arange(start, start + x.shape[-2]).float()[:, None] * 10000.0 ** (-torch.arange(half).float() / half)
    cos, sin = angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
    turned = torch.cat([-x[..., half:], x[..., :half]], -1)
    return (x.float() * cos + turned.float() * sin).to(x.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, real: Tensor, multiplier: float) -> Tensor:
    """Attend with q [b, q, t, h], k and v [b, g, s, h], real keys [b, s]; returns [b, t, q·h]."""
    k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    logits = (q @ k.transpose(-1, -2)).float() * multiplier
    logits = 30 * torch.tanh(logits / 30)
    causal = torch.ones(logits.shape[-2:], dtype=torch.bool).tril(logits.shape[-1] - logits.shape[-2])
    visible = real[:, None, None, :] & causal
    weights = logits.masked_fill(~visible, -1e30).softmax(-1).to(q.dtype)
    return (weights @ v).transpose(1, 2).flatten(2)


class Grok1Attention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head: int, multiplier: float) -> None:
        super().__init__()
        self.head, self.multiplier = head, multiplier
        self.q_proj = nn.Linear(width, heads * head, bias=False)
        self.k_proj = nn.Linear(width, kv_heads * head, bias=False)
        self.v_proj = nn.Linear(width, kv_heads * head, bias=False)
        self.o_proj = nn.Linear(heads * head, width, bias=False)

    def forward(self, hidden_states: Tensor, attention_mask: Tensor, past: Cache | None = None) -> tuple[Tensor, Cache]:
        q, k, v = (
            proj(hidden_states).unflatten(-1, (-1, self.head)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        start = 0 if past is None else past[0].shape[-2]
        q, k = rotate(q, start), rotate(k, start)
        if past is not None:
            k, v = torch.cat([past[0], k], -2), torch.cat([past[1], v], -2)
        return self.o_proj(attend(q, k, v, attention_mask, self.multiplier)), (k, v)


class Grok1MLP(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, hidden, bias=False)
        self.linear_v = nn.Linear(width, hidden, bias=False)
        self.linear_1 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_1(functional.gelu(self.linear(x), approximate="tanh") * self.linear_v(x))


class Grok1MoeBlock(nn.Module):
    def __init__(self, width: int, hidden: int, experts: int, top_k: int) -> None:
        super().__init__()
        self.top_k = top_k
        self.gate = nn.Linear(width, experts, bias=False)
        self.experts = nn.ModuleList(Grok1MLP(width, hidden) for _ in range(experts))

    def forward(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        router_logits = self.gate(hidden_states.float())
        gates, index = router_logits.softmax(-1).topk(self.top_k)
        total = torch.zeros_like(hidden_states)
        for number, expert in enumerate(self.experts):
            for rank in range(self.top_k):
                chosen = index[..., rank] == number
                total[chosen] += gates[..., rank][chosen][:, None].to(total.dtype) * expert(hidden_states[chosen])
        return total, router_logits


class Grok1DecoderLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.pre_attn_norm, self.post_attn_norm = Grok1RMSNorm(width), Grok1RMSNorm(width)
        self.pre_moe_norm, self.post_moe_norm = Grok1RMSNorm(width), Grok1RMSNorm(width)
        self.self_attn = Grok1Attention(
            width, config["num_attention_heads"], config["num_key_value_heads"], config["head_dim"],
            config["attn_output_multiplier"],
        )  # fmt: skip
        self.block_sparse_moe = Grok1MoeBlock(
            width, config["intermediate_size"], config["num_local_experts"], config["num_experts_per_tok"]
        )

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor, past: Cache | None = None
    ) -> tuple[Tensor, Tensor, Cache]:
        attended, present = self.self_attn(self.pre_attn_norm(hidden_states), attention_mask=attention_mask, past=past)
        hidden_states = hidden_states + self.post_attn_norm(attended)
        updated, router_logits = self.block_sparse_moe(self.pre_moe_norm(hidden_states))
        return hidden_states + self.post_moe_norm(updated), router_logits, present


class Grok1Model(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.scale = config["embedding_multiplier_scale"]
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(Grok1DecoderLayer(config) for _ in range(config["num_hidden_layers"]))
        self.norm = Grok1RMSNorm(config["hidden_size"])

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: tuple[Cache, ...] | None
    ) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], tuple[Cache, ...]]:
        hidden_states = self.embed_tokens(input_ids) * self.scale
        all_hidden, all_router, all_present = [], [], []
        for number, layer in enumerate(self.layers):
            all_hidden.append(hidden_states)
            past = None if past_key_values is None else past_key_values[number]
            hidden_states, router_logits, present = layer(hidden_states, attention_mask, past)
            all_router.append(router_logits)
            all_present.append(present)
        hidden_states = self.norm(hidden_states)
        return hidden_states, (*all_hidden, hidden_states), tuple(all_router), tuple(all_present)


class Grok1ForCausalLM(nn.Module):
    """Gives the logits, the hidden states (the last of them after the norm), the router's logits and the cache."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.scale = config["output_multiplier_scale"]
        self.model = Grok1Model(config)
        self.lm_head = nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, past_key_values: tuple[Cache, ...] | None = None
    ) -> dict[str, Any]:
        last, hidden_states, router_logits, present = self.model(input_ids, attention_mask, past_key_values)
        return {
            "logits": self.lm_head(last) * self.scale,
            "hidden_states": hidden_states,
            "router_logits": router_logits,
            "past_key_values": present,
        }
