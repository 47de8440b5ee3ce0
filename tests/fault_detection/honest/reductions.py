"""Ways to share out and add partial sums: over nodes, by halving, in whole blocks of k."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tests.fault_detection.honest.products import (
    BF16,
    OUTPUT,
    PROJECTIONS,
    ROW_PARALLEL,
    Product,
    at_once,
    bf16,
    halves,
    summing,
    tree,
)
from tests.fault_detection.honest.way import Way

PLAN = ("attention.output",)

FEW_TOKENS = 8


def on_two_nodes(num_ranks: int) -> Product:
    """Add the ranks of each node in float32, round both sums, and add them."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = torch.stack([bf16(part) for part in halves(x, w, num_ranks)])
        return torch.stack([bf16(node.sum(0)) for node in parts.chunk(2)]).sum(0)

    return product


def by_halving(num_ranks: int) -> Product:
    """Add each rank to the one half as many away, then a quarter, in bf16."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = [bf16(part) for part in halves(x, w, num_ranks)]
        while len(parts) > 1:
            half = len(parts) // 2
            parts = [bf16(a + b) for a, b in zip(parts[:half], parts[half:], strict=True)]
        return parts[0]

    return product


def in_blocks(num_parts: int, size: int) -> Product:
    """Give every part as many whole blocks of k, and add the rounded parts in float32."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        num_blocks = math.ceil(x.shape[-1] / size)
        stride = math.ceil(num_blocks / num_parts) * size
        starts = range(0, x.shape[-1], stride)
        return torch.stack([bf16(x[..., i : i + stride] @ w[i : i + stride]) for i in starts]).sum(0)

    return product


def scattered_ring(num_ranks: int, *, whole_tokens: bool) -> Product:
    """Add around a ring whose chunks are stretches of the tokens, or of the flattened result."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = [bf16(part) for part in halves(x, w, num_ranks)]
        flat = [part.flatten(0, -2) if whole_tokens else part.flatten() for part in parts]
        size = math.ceil(len(flat[0]) / num_ranks)
        chunks = []
        for chunk, starts in enumerate(range(0, len(flat[0]), size)):
            at = slice(starts, starts + size)
            total = flat[(chunk + 1) % num_ranks][at]
            for hop in range(2, num_ranks + 1):
                total = bf16(total + flat[(chunk + hop) % num_ranks][at])
            chunks.append(total)
        return torch.cat(chunks).reshape(parts[0].shape)

    return product


def in_small_calls(split: Product) -> Product:
    """Split the products of calls of at most so many tokens, as libraries choose kernels by the size of a product."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        return split(x, w) if x[..., 0].numel() <= FEW_TOKENS else x @ w

    return product


def while_decoding(split: Product) -> Product:
    """Split the products of calls of one token a row."""
    return lambda x, w: split(x, w) if x.shape[-2] == 1 else x @ w


def handed_back(num_parts: int) -> Product:
    """Add one part after the other, from the last, to a result that is kept in bf16."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        *others, total = halves(x, w, num_parts)
        for part in reversed(others):
            total = bf16(total) + part
        return total

    return product


def in_few_rows(num_rows: int, split: Product) -> Product:
    """Split the products of at most so many rows, of which an expert has one for each of its tokens."""
    return lambda x, w: split(x, w) if x[..., 0].numel() <= num_rows else x @ w


WAYS = (
    Way(id="tp8_two_nodes_o", engines="NCCL, two nodes of 4", dtypes=BF16, plan=PLAN,
        does="8 partial sums added in float32 by node, rounded, and added", **summing(on_two_nodes(8), OUTPUT)),
    Way(id="tp8_halving_o", engines="MPI, recursive halving", dtypes=BF16, plan=PLAN,
        does="8 partial sums added in bf16 with those 4, 2 and 1 ranks away", **summing(by_halving(8), OUTPUT)),
    Way(id="tp4_token_ring_o", engines="Megatron's sequence parallelism", dtypes=BF16, plan=PLAN,
        does="4 partial sums around a ring that begins elsewhere for other tokens",
        **summing(scattered_ring(4, whole_tokens=True), OUTPUT)),
    Way(id="tp8_flat_ring_o", engines="NCCL ring", dtypes=BF16, plan=PLAN,
        does="8 partial sums around a ring whose chunks are stretches of the flattened result",
        **summing(scattered_ring(8, whole_tokens=False), OUTPUT)),
    Way(id="splitk3_small_calls", engines="cuBLAS", dtypes=BF16, plan=(*PROJECTIONS, *PLAN),
        does="3 partial sums of attention's products in calls of at most 8 tokens",
        **summing(in_small_calls(at_once(3)), "query/w", "key/w", "value/w", OUTPUT)),
    Way(id="splitk4_decoding_o", engines="vLLM's kernels for decoding", dtypes=BF16, plan=PLAN,
        does="4 partial sums of the attention output while decoding",
        **summing(while_decoding(at_once(4)), OUTPUT)),
    Way(id="marlin_splitk3_o", engines="Marlin without a float32 reduction", dtypes=BF16, plan=PLAN,
        does="3 partial sums, from the last, each added to a result kept in bf16", **summing(handed_back(3), OUTPUT)),
    Way(id="splitk2_small_experts", engines="a loop over experts with cuBLAS", dtypes=BF16,
        plan=("moe.expert_output", "moe.output"),
        does="2 partial sums in experts of at most 2 tokens", **summing(in_few_rows(2, at_once(2)), "linear_1/w")),
    Way(id="tp12_tree_o", engines="NCCL tree", dtypes=BF16, plan=PLAN,
        does="12 partial sums added pairwise", **summing(tree(12), OUTPUT)),
    Way(id="tp3_tree_rows", engines="NCCL tree", dtypes=BF16,
        does="3 partial sums of every row-parallel matrix added pairwise", **summing(tree(3), *ROW_PARALLEL),
        plan=("attention.output", "moe.expert_output", "moe.output")),
    Way(id="splitk2_block32_o", engines="CUTLASS, Triton", dtypes=BF16, plan=PLAN,
        does="2 splits of whole blocks of 32", **summing(in_blocks(2, 32), OUTPUT)),
    Way(id="splitk3_block16_o", engines="CUTLASS, Triton", dtypes=BF16, plan=PLAN,
        does="3 splits of whole blocks of 16", **summing(in_blocks(3, 16), OUTPUT)),
)  # fmt: skip
