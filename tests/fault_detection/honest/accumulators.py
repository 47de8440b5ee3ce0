"""Accumulators of other hardware than NVIDIA's newest: A100, AMD matrix cores, AMX, Arm's BFMMLA, atomics in bf16."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.fault_detection.honest.products import (
    BF16,
    EVERYWHERE,
    FLOAT32,
    OUTPUT,
    Product,
    bf16,
    exponent_of,
    halves,
    ring,
    summing,
    tensor_core,
)
from tests.fault_detection.honest.quantisations import fp8_per_token
from tests.fault_detection.honest.way import Way

AMX_TILE = 32


def blocks_rounded(block: int) -> Product:
    """Add so many exact products and the sum so far, and round once to the nearest: AMD's matrix cores (CDNA3)."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        total = torch.zeros(*x.shape[:-1], w.shape[-1])
        for start in range(0, x.shape[-1], block):
            terms = x[..., start : start + block].double() @ w[start : start + block].double()
            total = (total.double() + terms).float()
        return total

    return product


def two_chains(x: Tensor, w: Tensor) -> Tensor:
    """Add even and odd products in two float32 chains within a tile, then the tiles: Intel's TDPBF16PS (SDM)."""
    total = torch.zeros(*x.shape[:-1], w.shape[-1])
    for start in range(0, x.shape[-1], AMX_TILE):
        tile_x, tile_w = x[..., start : start + AMX_TILE].double(), w[start : start + AMX_TILE].double()
        chains = []
        for parity in (0, 1):
            chain = torch.zeros_like(total)
            for k in range(parity, tile_x.shape[-1], 2):
                chain = (chain.double() + tile_x[..., k, None] * tile_w[k]).float()
            chains.append(chain)
        total = total + (chains[0] + chains[1])
    return total


def rounded_to_odd(x: Tensor) -> Tensor:
    """Round float64 values to 24 bits: cut off, and where something was lost make the last bit 1."""
    quantum = torch.exp2((exponent_of(x) - 24).double())
    units = torch.trunc(x / quantum)
    lost = units * quantum != x
    return torch.where(lost & (units % 2 == 0), units + torch.sign(x), units) * quantum


def pairs_to_odd(x: Tensor, w: Tensor) -> Tensor:
    """Add pairs of products rounded to odd, and the sums so: Arm's BFMMLA without FEAT_EBF16 (Arm ARM)."""
    total = torch.zeros(*x.shape[:-1], w.shape[-1], dtype=torch.float64)
    for k in range(0, x.shape[-1], 2):
        pair = rounded_to_odd(x[..., k : k + 2].double() @ w[k : k + 2].double())
        total = rounded_to_odd(total + pair)
    return total.float()


def bf16_atomics(num_parts: int) -> Product:
    """Add bf16 partial sums by atomics in bf16: every stretch of 8 features in another order at every call."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        stretches = zip(*([torch.split(part, 8, -1) for part in halves(x, w, num_parts)]), strict=True)
        columns = []
        for parts in stretches:
            total = torch.zeros_like(parts[0])
            for i in torch.randperm(num_parts).tolist():
                total = bf16(total + bf16(parts[i]))
            columns.append(total)
        return torch.cat(columns, -1)

    return product


def float32_parts(num_parts: int) -> Product:
    """Add float32 partial sums of so many ranks in turn: an all-reduce in float32."""
    return lambda x, w: sum(halves(x, w, num_parts)[1:], halves(x, w, num_parts)[0])


def fp8_parts(num_parts: int) -> Product:
    """Add partial sums that travel in fp8 with a scale per token."""
    return lambda x, w: torch.stack([fp8_per_token(part) for part in halves(x, w, num_parts)]).sum(0)


def towards_zero(product: Product) -> Product:
    """Cut the result off to bf16 instead of rounding it to the nearest."""

    def cut(x: Tensor, w: Tensor) -> Tensor:
        bits = product(x, w).view(torch.int32)
        return (bits & -65536).view(torch.float32)

    return cut


def stochastic(product: Product) -> Product:
    """Round the result to bf16 up or down by chance, with a mean that is right."""

    def drawn(x: Tensor, w: Tensor) -> Tensor:
        bits = product(x, w).view(torch.int32)
        noise = torch.randint(0, 65536, bits.shape, dtype=torch.int32, generator=torch.Generator().manual_seed(1))
        return ((bits + noise) & -65536).view(torch.float32)

    return drawn


def plain(x: Tensor, w: Tensor) -> Tensor:
    """Sum as torch does."""
    return x @ w


AT_OUTPUT = ("attention.output",)

WAYS = (
    Way(id="tensorcore_a100", engines="A100 tensor cores", dtypes=BF16,
        does="blocks of 8 products aligned and truncated, one extra bit", **summing(tensor_core(8, 25)),
        plan=EVERYWHERE, untold=True),
    Way(id="amd_matrix_core", engines="ROCm on MI300", does="blocks of 4 products, rounded to the nearest", dtypes=BF16,
        **summing(blocks_rounded(4))),
    Way(id="amx_two_chains", engines="oneDNN on AMX", does="even and odd products in two chains", dtypes=BF16,
        **summing(two_chains)),
    Way(id="bfmmla_round_to_odd", engines="llama.cpp and ACL on Arm", does="pairs and sums rounded to odd", dtypes=BF16,
        **summing(pairs_to_odd)),
    Way(id="splitk4_bf16_atomics_o", engines="Triton split-K with atomic_add", dtypes=BF16,
        does="4 partial sums added in bf16 in another order at every call and tile", **summing(bf16_atomics(4), OUTPUT),
        plan=AT_OUTPUT),
    Way(id="tp6_ring_o", engines="NCCL ring", does="tensor parallel 6: a ring reduce-scatter in bf16", dtypes=BF16,
        **summing(ring(6), OUTPUT), plan=AT_OUTPUT),
    Way(id="tp8_float32_o", engines="MLX distributed", does="8 float32 partial sums at the attention output",
        dtypes=FLOAT32, **summing(float32_parts(8), OUTPUT, float32=True)),
    Way(id="allreduce_fp8_o", mark="wrong", engines="vLLM quick all-reduce", dtypes=BF16,
        does="4 partial sums that travel in fp8", **summing(fp8_parts(4), OUTPUT), fault="all_reduce_fp8"),
    Way(id="cut_to_bf16_o", mark="wrong", engines="a conversion that drops bits", dtypes=BF16,
        does="the attention output cut off to bf16", **summing(towards_zero(plain), OUTPUT),
        fault="rounded_towards_zero"),
    Way(id="stochastic_rounding_o", mark="wrong", engines="Neuron's default on Trainium", dtypes=BF16,
        does="the attention output rounded by chance", **summing(stochastic(plain), OUTPUT),
        fault="rounded_by_chance"),
)  # fmt: skip
