"""Ways to sum a product: split, sharded, on tensor cores, in more or fewer digits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations, parameters
from tests.fault_detection.honest.way import Way, narrow

Product = Callable[[Tensor, Tensor], Tensor]
"""Multiplies float32 [.., k] by [k, n], in float32 before the result's own rounding."""

PROJECTIONS = ("attention.query", "attention.key", "attention.value")
EVERYWHERE = (*PROJECTIONS, "attention.output", "dense.activation", "dense.up", "moe.output", "moe.expert_activation",
              "moe.expert_up", "moe.expert_output", "logits")  # fmt: skip


def bf16(x: Tensor) -> Tensor:
    """Round to bfloat16, and return it in float32."""
    return x.to(torch.bfloat16).float()


def halves(x: Tensor, w: Tensor, num_parts: int) -> list[Tensor]:
    """Return the products of so many stretches of k."""
    return [a @ b for a, b in zip(x.tensor_split(num_parts, -1), w.tensor_split(num_parts, 0), strict=True)]


def at_once(num_parts: int) -> Product:
    """Sum bf16 partial sums in float32: split-K, or a one-shot all-reduce."""
    return lambda x, w: torch.stack([bf16(part) for part in halves(x, w, num_parts)]).sum(0)


def in_turn(num_parts: int) -> Product:
    """Add bf16 partial sums one after the other in bf16."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        first, *others = [bf16(part) for part in halves(x, w, num_parts)]
        for part in others:
            first = bf16(first + part)
        return first

    return product


def ring(num_ranks: int) -> Product:
    """Add bf16 partial sums by a ring reduce-scatter: each chunk of features begins at another rank."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = [bf16(part).tensor_split(num_ranks, -1) for part in halves(x, w, num_ranks)]
        chunks = []
        for chunk in range(num_ranks):
            order = [(chunk + 1 + i) % num_ranks for i in range(num_ranks)]
            total = parts[order[0]][chunk]
            for rank in order[1:]:
                total = bf16(total + parts[rank][chunk])
            chunks.append(total)
        return torch.cat(chunks, -1)

    return product


def tree(num_parts: int) -> Product:
    """Add bf16 partial sums pairwise in bf16."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = [bf16(part) for part in halves(x, w, num_parts)]
        while len(parts) > 1:
            pairs = [bf16(a + b) for a, b in zip(parts[::2], parts[1::2], strict=False)]
            parts = pairs + parts[len(pairs) * 2 :]
        return parts[0]

    return product


def atomics(num_parts: int) -> Product:
    """Add float32 partial sums in an order that is another at every call."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = halves(x, w, num_parts)
        total = torch.zeros_like(parts[0])
        for i in torch.randperm(num_parts).tolist():
            total = total + parts[i]
        return total

    return product


def in_float64(x: Tensor, w: Tensor) -> Tensor:
    """Sum in float64."""
    return (x.double() @ w.double()).float()


def truncated(x: Tensor, num_bits: int, exponent: Tensor) -> Tensor:
    """Cut off float64 values below so many bits under 2 to an exponent, towards zero."""
    quantum = torch.exp2((exponent - num_bits).double())
    return torch.trunc(x / quantum) * quantum


LEAST_EXPONENT = -200
"""The exponent of 0: below those of all products, and 2 to it is no subnormal number of float64."""


def exponent_of(x: Tensor) -> Tensor:
    """Return the least exponent e with |x| < 2**e, of 0 one below all others."""
    return torch.where(x == 0, LEAST_EXPONENT, torch.frexp(x).exponent)


def tensor_core(block: int, num_bits: int) -> Product:
    """Sum as tensor cores do: blocks of products and the sum so far, aligned to the largest and truncated.

    Fasi, Higham, Mikaitis, Pranesh: Numerical behavior of NVIDIA tensor cores (2021): products are exact, all addends
    of a block are aligned to the largest of them and cut off, and the result is truncated to float32.
    """

    def product(x: Tensor, w: Tensor) -> Tensor:
        a, b = x.double().flatten(0, -2), w.double()
        total = torch.zeros(a.shape[0], b.shape[1], dtype=torch.float64)
        for start in range(0, a.shape[1], block):
            terms = a[:, start : start + block, None] * b[None, start : start + block]  # [m, block, n]
            terms = torch.cat([total[:, None], terms], 1)
            largest = exponent_of(terms).amax(1, keepdim=True)
            total = truncated(terms, num_bits, largest).sum(1)
            total = truncated(total, 24, exponent_of(total))
        return total.float().reshape(*x.shape[:-1], -1)

    return product


def promoted(every: int, inner: Product) -> Product:
    """Add the sums of so many products each, made by another product, in float32."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        parts = [inner(x[..., i : i + every], w[i : i + every]) for i in range(0, x.shape[-1], every)]
        return torch.stack(parts).sum(0)

    return product


def accumulated(num_bits: int, every: int) -> Product:
    """Round the sum to so many bits after every few products: an accumulator that is too narrow."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        total = torch.zeros(*x.shape[:-1], w.shape[-1], dtype=torch.float64)
        for start in range(0, x.shape[-1], every):
            total = total + x[..., start : start + every].double() @ w[start : start + every].double()
            quantum = torch.exp2((exponent_of(total) - num_bits).double())
            total = torch.round(total / quantum) * quantum
        return total.float()

    return product


def pieces(x: Tensor, num_pieces: int, num_bits: int) -> list[Tensor]:
    """Split float32 values into so many of few bits, the largest first."""
    found = []
    for _ in range(num_pieces):
        quantum = torch.exp2((exponent_of(x) - num_bits).float())
        piece = torch.where(x == 0, x, torch.round(x / quantum) * quantum)
        found.append(piece)
        x = x - piece
    return found


def emulated(num_pieces: int, num_products: int, num_bits: int) -> Product:
    """Multiply float32 by so many products of narrow pieces: TF32 and bfloat16 emulation."""

    def product(x: Tensor, w: Tensor) -> Tensor:
        xs, ws = pieces(x, num_pieces, num_bits), pieces(w, num_pieces, num_bits)
        pairs = sorted(((i + j, i, j) for i in range(num_pieces) for j in range(num_pieces)), reverse=True)
        return torch.stack([xs[i] @ ws[j] for _, i, j in pairs[len(pairs) - num_products :]]).sum(0)

    return product


def named(params: parameters.Params, name: str, expert: int | None = None) -> Tensor:
    """Return a matrix that knows its stored name."""
    matrix = parameters.matrix(params, name, expert)
    matrix = matrix.clone() if hasattr(matrix, "stored_name") else matrix
    matrix.stored_name = name  # type: ignore[attr-defined]
    return matrix


def summing(product: Product, *places: str, float32: bool | None = False) -> dict[str, Any]:
    """Return the replacements that sum the products with some weights (by the end of their names) in another way.

    Only bf16 products, only those of float32, or those of either where `float32` is None. The table, which has no
    stored name here, is "head".
    """

    def chosen(weight: Tensor) -> bool:
        name = str(getattr(weight, "stored_name", "head"))
        return not places or any(name.endswith(place) for place in places)

    def linear(x: Tensor, weight: Tensor) -> Tensor:
        if (float32 is not None and narrow(x) == float32) or not chosen(weight):
            return operations_linear(x, weight)
        return product(x.float(), weight.to(x.dtype).float()).to(x.dtype)

    def expert_linear(x: Tensor, weight: Tensor) -> Tensor:
        dtype = torch.promote_types(x.dtype, weight.dtype)
        if (float32 is not None and narrow(weight) == float32) or not chosen(weight):
            return operations_expert_linear(x, weight)
        return product(x.float(), weight.float()).to(dtype)

    return {"operations": {"linear": linear, "expert_linear": expert_linear}, "model": {"matrix": named}}


operations_linear, operations_expert_linear = operations.linear, operations.expert_linear

OUTPUT = "multi_head_attention/linear/w"
QKV = ("query/w", "key/w", "value/w")
ROW_PARALLEL = (OUTPUT, "linear_1/w")
MATRICES = ("moe/linear/w", "moe/linear_v/w", "moe/linear_1/w", "/linear/w", "/linear_v/w", "/linear_1/w")

BF16 = ("bfloat16",)
FLOAT32 = ("float32",)

WAYS = (
    Way(id="base", engines="torch", does="rounds as published"),
    Way(id="fp64_sums", engines="any", does="sums in float64", dtypes=BF16, **summing(in_float64)),
    Way(id="splitk2_bf16_reduction", engines="torch with allow_bf16_reduced_precision_reduction", dtypes=BF16,
        does="splits every product's K in 2, bf16 partial sums added in float32", **summing(at_once(2)),
        plan=EVERYWHERE),
    Way(id="splitk2_bf16_qkv", engines="cuBLAS", does="split-K in 2 at q, k and v alone", dtypes=BF16,
        **summing(at_once(2), *QKV), plan=PROJECTIONS),
    Way(id="splitk2_bf16_logits", engines="cuBLAS", does="split-K in 2 at the logits alone", dtypes=BF16,
        **summing(at_once(2), "head"), plan=("logits",)),
    Way(id="splitk3_bf16_o", engines="cuBLAS", does="3 bf16 partial sums at the attention output", dtypes=BF16,
        **summing(at_once(3), OUTPUT), plan=("attention.output",)),
    Way(id="splitk5_bf16_o", engines="CUTLASS stream-K", does="5 bf16 partial sums at the attention output",
        dtypes=BF16,
        **summing(at_once(5), OUTPUT), plan=("attention.output",)),
    Way(id="tree4_bf16_o", engines="NCCL tree", does="4 partial sums added pairwise in bf16", dtypes=BF16,
        **summing(tree(4), OUTPUT), plan=("attention.output",)),
    Way(id="splitk_atomics", engines="Triton split-K", does="4 float32 partial sums, another order at every call",
        **summing(atomics(4)), dtypes=BF16),
    Way(id="splitk16_fp32", engines="Marlin", does="16 float32 partial sums", **summing(atomics(16)), dtypes=BF16),
    *(Way(id=f"tp{n}_ring_o", engines="NCCL ring", does=f"tensor parallel {n}: a ring reduce-scatter in bf16",
          dtypes=BF16, **summing(ring(n), OUTPUT), plan=("attention.output",)) for n in (2, 4, 8, 16)),
    Way(id="tp8_oneshot_o", engines="vLLM custom all-reduce", does="8 bf16 partial sums, added in float32", dtypes=BF16,
        **summing(at_once(8), OUTPUT), plan=("attention.output",)),
    Way(id="tp4_in_turn_o", engines="gloo", does="4 bf16 partial sums, added one after the other", dtypes=BF16,
        **summing(in_turn(4), OUTPUT), plan=("attention.output",)),
    Way(id="tensorcore_trunc", engines="Ampere and Hopper tensor cores", dtypes=BF16,
        does="blocks of 16 products aligned and truncated at 26 bits, float32 sums truncated",
        **summing(tensor_core(16, 26)), plan=EVERYWHERE, untold=True),
    Way(id="tensorcore_trunc_8", engines="Volta tensor cores", dtypes=BF16,
        does="blocks of 4 products, no extra bits", **summing(tensor_core(4, 24)),
        plan=EVERYWHERE, untold=True),
    Way(id="tensorcore_promoted", engines="DeepGEMM, stream-K", dtypes=BF16,
        does="sums of 32 products on tensor cores, which are added in float32",
        **summing(promoted(32, tensor_core(16, 26))), plan=EVERYWHERE, untold=True),
    Way(id="fp32_trunc", engines="an accumulator that truncates", dtypes=FLOAT32,
        does="blocks of 8 float32 products truncated at 26 bits", **summing(tensor_core(8, 26), float32=True),
        plan=EVERYWHERE, untold=True),
    Way(id="bf16x9", engines="cuBLAS BF16x9", does="float32 products as 9 bf16 products", dtypes=FLOAT32,
        **summing(emulated(3, 9, 8), float32=True)),
    Way(id="bf16x6", engines="TPU highest", does="float32 products as 6 bf16 products", dtypes=FLOAT32,
        **summing(emulated(3, 6, 8), float32=True)),
    Way(id="tf32x3", engines="CUTLASS 3xTF32", does="float32 products as 3 TF32 products", dtypes=FLOAT32,
        **summing(emulated(2, 3, 11), float32=True)),
    Way(id="bf16x3", mark="wrong", engines="TPU high, oneMKL", does="float32 products as 3 bf16 products",
        dtypes=FLOAT32,
        **summing(emulated(2, 3, 8), float32=True), fault="products_bf16x3"),
    Way(id="tf32", mark="wrong", engines="torch with TF32 allowed", does="TF32 products", dtypes=FLOAT32,
        **summing(emulated(1, 1, 11), float32=True), fault="products_tf32"),
    Way(id="accum_bf16_o", mark="wrong", engines="mlir-air", does="bf16 accumulator, rounded after every 16 products",
        dtypes=BF16, **summing(accumulated(8, 16), OUTPUT), fault="accumulated_in_bf16_every_16"),
    Way(id="accum_14bit_o", mark="wrong", engines="fp8 tensor cores of Hopper", does="14-bit accumulators", dtypes=BF16,
        **summing(accumulated(14, 16), OUTPUT), fault="accumulated_in_14_bits_every_16"),
    Way(id="accum_bf16_each_o", mark="wrong", engines="a naive kernel",
        does="bf16 accumulator, rounded at every product",
        dtypes=BF16, **summing(accumulated(8, 1), OUTPUT), fault="accumulated_in_bf16_every_1"),
)  # fmt: skip
