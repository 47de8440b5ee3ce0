"""Grok-1 as a serving engine has it: rows without padding, two ranks of fused projections, two streams per layer.

It knows nothing of the harness. The ranks are modules of one process; what they would all-reduce is added.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.strangers.transformers_style import Grok1MoeBlock, Grok1RMSNorm, attend, rotate

RANKS = 2


def add_norm(norm: nn.Module, update: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """Add an update to the residual stream, and return the sum normalised and as it is."""
    total = update if residual is None else residual + update
    return norm(total), total


class ServingAttention(nn.Module):
    def __init__(self, width: int, heads: int, kv_heads: int, head: int, multiplier: float) -> None:
        super().__init__()
        self.head, self.multiplier = head, multiplier
        self.sizes = [heads // RANKS * head, kv_heads // RANKS * head, kv_heads // RANKS * head]
        self.qkv_proj = nn.ModuleList(nn.Linear(width, sum(self.sizes), bias=False) for _ in range(RANKS))
        self.o_proj = nn.ModuleList(nn.Linear(self.sizes[0], width, bias=False) for _ in range(RANKS))

    def forward(self, x: Tensor, cu_seqlens: list[int]) -> Tensor:
        """Attend with rows [n, d] that lie one after the other."""
        partial = []
        for qkv_proj, o_proj in zip(self.qkv_proj, self.o_proj, strict=True):
            q, k, v = (part.unflatten(-1, (-1, self.head)) for part in qkv_proj(x).split(self.sizes, -1))
            rows = []
            for begin, end in itertools.pairwise(cu_seqlens):
                each = [part[begin:end].transpose(0, 1)[None] for part in (q, k, v)]
                real = torch.ones(1, end - begin, dtype=torch.bool)
                rows.append(attend(rotate(each[0]), rotate(each[1]), each[2], real, self.multiplier)[0])
            partial.append(o_proj(torch.cat(rows)))
        return torch.stack(partial).sum(0)


class ServingLayer(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        self.norms = nn.ModuleList(Grok1RMSNorm(width) for _ in range(4))
        self.attn = ServingAttention(
            width, config["heads"], config["kv_heads"], config["head_dim"], config["attn_output_multiplier"]
        )
        self.moe = Grok1MoeBlock(width, config["intermediate_size"], config["experts"], config["top_k"])

    def forward(self, update: Tensor, residual: Tensor | None, cu_seqlens: list[int]) -> tuple[Tensor, Tensor]:
        x, residual = add_norm(self.norms[0], update, residual)
        x, residual = add_norm(self.norms[2], self.norms[1](self.attn(x, cu_seqlens)), residual)
        return self.norms[3](self.moe(x)[0]), residual


class ServingModel(nn.Module):
    def __init__(self, config: Any) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config["vocab_size"], config["hidden_size"])
        self.layers = nn.ModuleList(ServingLayer(config) for _ in range(config["layers"]))
        self.norm = Grok1RMSNorm(config["hidden_size"])

    def forward(self, input_ids: Tensor, cu_seqlens: list[int]) -> Tensor:
        """Return logits [n, v padded to a multiple of 64] of token ids [n]."""
        update = self.embed_tokens(input_ids) * self.config["embedding_multiplier_scale"]
        residual = None
        for layer in self.layers:
            update, residual = layer(update, residual, cu_seqlens)
        hidden, _ = add_norm(self.norm, update, residual)
        logits = functional.linear(hidden, self.embed_tokens.weight) * self.config["output_multiplier_scale"]
        return functional.pad(logits, (0, -logits.shape[-1] % 64))
