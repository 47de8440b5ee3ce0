"""Emulated products behave as published of the hardware whose they are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.fault_detection.honest.accumulators import (
    bf16_atomics,
    blocks_rounded,
    pairs_to_odd,
    rounded_to_odd,
    stochastic,
    towards_zero,
    two_chains,
)
from tests.fault_detection.honest.products import (
    Product,
    accumulated,
    at_once,
    bf16,
    emulated,
    in_turn,
    pieces,
    ring,
    tensor_core,
    tree,
)

VOLTA, AMPERE, HOPPER = tensor_core(4, 24), tensor_core(8, 25), tensor_core(16, 26)
TENSOR_CORES, GENERATIONS = ((VOLTA, 4), (AMPERE, 8), (HOPPER, 16)), ("volta", "ampere", "hopper")

TINY = 2.0**-24
"""Half a unit of 1 in float32."""


def sum_of(product: Product, *terms: float) -> float:
    """Return the sum of some values as products with 1."""
    return product(torch.tensor([terms]), torch.ones(len(terms), 1)).item()


def drawn(num_rows: int = 5, num_terms: int = 48, num_columns: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Draw operands that bf16 holds."""
    generator = torch.Generator().manual_seed(seed)
    x, w = (torch.randn(shape, generator=generator) for shape in ((num_rows, num_terms), (num_terms, num_columns)))
    return bf16(x), bf16(w)


def exact(x: Tensor, w: Tensor) -> Tensor:
    return x.double() @ w.double()


# Fasi, Higham, Mikaitis, Pranesh (2021); Li et al., FTTN (2024)


def test_volta_keeps_no_extra_bit() -> None:
    assert sum_of(VOLTA, 1, TINY, TINY, TINY) == 1


def test_ampere_keeps_one_extra_bit_and_cuts_the_sum_off() -> None:
    assert sum_of(AMPERE, 1, TINY, TINY, TINY) == 1 + 2 * TINY
    assert sum_of(AMPERE, 1, TINY / 2, TINY / 2, TINY / 2, TINY / 2) == 1


def test_hopper_keeps_two_extra_bits() -> None:
    assert sum_of(HOPPER, 1, *[TINY / 2] * 4) == 1 + 2 * TINY
    assert sum_of(HOPPER, 1, *[TINY / 4] * 8) == 1


def test_rounding_to_the_nearest_would_give_another_sum() -> None:
    assert sum_of(HOPPER, 1, TINY, TINY, TINY) == 1 + 2 * TINY
    assert sum_of(blocks_rounded(4), 1, TINY, TINY, TINY) == 1 + 4 * TINY


@pytest.mark.parametrize(("product", "block"), TENSOR_CORES, ids=GENERATIONS)
def test_small_terms_are_lost_one_block_after_the_large_one_unless_together_they_reach_its_unit(
    product: Product, block: int
) -> None:
    lost = [TINY / block] * block
    assert sum_of(product, 1, *[0.0] * (block - 1), *lost) == 1
    assert sum_of(product, *lost, 1) == 1  # alignment to the larger cuts the sum of the first block off
    assert sum_of(product, *[TINY] * block, 1) > 1


@pytest.mark.parametrize(("product", "block"), TENSOR_CORES, ids=GENERATIONS)
def test_the_order_within_a_block_does_not_matter(product: Product, block: int) -> None:
    x, w = drawn(num_terms=3 * block)
    order = torch.cat([start + torch.randperm(block) for start in range(0, 3 * block, block)])
    assert torch.equal(product(x, w), product(x[:, order], w[order]))


@pytest.mark.parametrize("product", [VOLTA, AMPERE, HOPPER, towards_zero(torch.matmul)], ids=[*GENERATIONS, "cut"])
def test_truncation_is_towards_zero_so_it_shrinks_sums_of_one_sign(product: Product) -> None:
    x, w = (value.abs() for value in drawn(num_terms=480))
    difference = product(x, w).double() - exact(x, w)
    assert (difference <= 0).all()
    assert difference.mean() < 0
    assert torch.equal(product(-x, w), -product(x, w))


@pytest.mark.parametrize(
    "product",
    [VOLTA, AMPERE, HOPPER, blocks_rounded(4), two_chains, pairs_to_odd],
    ids=[*GENERATIONS, "amd", "amx", "arm"],
)
def test_hardware_sums_stay_within_some_units_of_float32(product: Product) -> None:
    x, w = drawn(num_terms=96)
    error = (product(x, w).double() - exact(x, w)).abs()
    assert (error <= 96 * 2.0**-23 * exact(x.abs(), w.abs())).all()
    assert (error > 0).any()


# Arm ARM, BFloat16 without FEAT_EBF16


def test_rounding_to_odd_keeps_what_fits_and_makes_the_last_bit_1_of_what_does_not() -> None:
    x = torch.tensor([1.0, 1 + 2.0**-23, 1 + 2.0**-25, -1 - 2.0**-25, 1 + 1.5 * 2.0**-23], dtype=torch.float64)
    expected = torch.tensor([1.0, 1 + 2.0**-23, 1 + 2.0**-23, -1 - 2.0**-23, 1 + 2.0**-23], dtype=torch.float64)
    assert torch.equal(rounded_to_odd(x), expected)


def test_rounding_to_odd_makes_rounding_twice_harmless() -> None:
    x = torch.randn(10_000, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(rounded_to_odd(x).float().to(torch.bfloat16), _nearest_bf16(x))


def _nearest_bf16(x: Tensor) -> Tensor:
    """Round float64 to bf16 once, to the nearest."""
    quantum = torch.exp2((torch.frexp(x).exponent - 8).double())
    return (torch.round(x / quantum) * quantum).to(torch.bfloat16)


# Partial sums


@pytest.mark.parametrize("parts", [at_once, in_turn, ring, tree, bf16_atomics])
def test_one_partial_sum_is_the_product_rounded(parts: Callable[[int], Product]) -> None:
    x, w = drawn()
    assert torch.equal(parts(1)(x, w), bf16(x @ w))


@pytest.mark.parametrize("parts", [in_turn, ring, tree, bf16_atomics])
def test_two_partial_sums_are_the_same_in_any_order(parts: Callable[[int], Product]) -> None:
    x, w = drawn()
    first, second = (bf16(a @ b) for a, b in zip(x.tensor_split(2, -1), w.tensor_split(2), strict=True))
    assert torch.equal(parts(2)(x, w), bf16(first + second))


def test_a_ring_starts_every_chunk_at_another_rank() -> None:
    x, w = drawn(num_columns=12)
    parts = [bf16(a @ b) for a, b in zip(x.tensor_split(3, -1), w.tensor_split(3), strict=True)]
    chunks = []
    for chunk, columns in enumerate(torch.arange(12).split(4)):  # type: ignore[no-untyped-call]
        first, second, third = (parts[(chunk + 1 + i) % 3][:, columns] for i in range(3))
        chunks.append(bf16(bf16(first + second) + third))
    assert torch.equal(ring(3)(x, w), torch.cat(chunks, -1))


# Emulated digits


def test_three_bf16_pieces_hold_a_float32_and_two_do_not() -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(2))
    assert torch.equal(torch.stack(pieces(x, 3, 8)).double().sum(0), x.double())
    assert not torch.equal(torch.stack(pieces(x, 2, 8)).double().sum(0), x.double())
    assert all(torch.equal(piece, bf16(piece)) for piece in pieces(x, 3, 8))


@pytest.mark.parametrize(
    ("product", "least", "most"),
    [
        (emulated(3, 9, 8), 0, 2.0**-22),
        (emulated(3, 6, 8), 0, 2.0**-21),
        (emulated(2, 3, 11), 0, 2.0**-20),
        (emulated(2, 3, 8), 2.0**-19, 2.0**-14),
        (emulated(1, 1, 11), 2.0**-14, 2.0**-10),
        (accumulated(14, 16), 2.0**-16, 2.0**-12),
        (accumulated(8, 1), 2.0**-10, 2.0**-5),
    ],
)
def test_a_product_of_so_many_digits_errs_as_they_say(product: Product, least: float, most: float) -> None:
    generator = torch.Generator().manual_seed(3)
    x, w = torch.randn(40, 96, generator=generator), torch.randn(96, 40, generator=generator)
    error = (product(x, w).double() - exact(x, w)).square().mean().sqrt() / exact(x, w).square().mean().sqrt()
    assert least <= error <= most


def test_rounding_by_chance_is_right_on_average_and_cutting_off_is_not() -> None:
    x, w = torch.full((1, 1), 1 + 2.0**-9), torch.ones(1, 20_000)
    assert stochastic(torch.matmul)(x, w).mean().item() == pytest.approx(1 + 2.0**-9, abs=2.0**-13)
    assert towards_zero(torch.matmul)(x, w).mean().item() == 1
