"""One expert's feed-forward block on its tokens, its matrices taken tile by tile (SPEC §4.6).

An int8 matrix is never dequantised as a whole: a tile of it is widened, rounded and multiplied while it is in the
processor's cache. The products are those of `reference.experts.run_expert`; their sums are taken tile by tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from grok_conformance.reference.experts import ExpertWeights, product, run_expert
from grok_conformance.reference.layers import computable, contract
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized
from grok_conformance.reference.rounding import round_to

MAX_ROWS = 256
"""Of a tile, whose bfloat16 values are to stay in the cache of one core."""

MAX_COLUMNS = 4096
"""Of a tile: a page of int8. Of shorter pieces of rows the processor fetches none ahead, and waits for each."""

ROWS_STEP = 8
"""Rows are padded to a multiple of this, so that few programs are compiled and the vector units are full."""

Values = dict[str, jax.Array]


def tile_shape(shape: tuple[int, int], num_groups: int) -> tuple[int, int]:
    """Return rows and columns of the tiles of a matrix: they divide it, and none straddles groups of scales.

    A matrix no larger than a tile may be is its only tile.
    """
    k, m = shape
    if k * m <= MAX_ROWS * MAX_COLUMNS:
        return shape
    return _largest_divisor(k // num_groups, MAX_ROWS), _largest_divisor(m, MAX_COLUMNS)


def padded_rows(num_rows: int) -> int:
    """Return the number of rows that is computed for so many: four sizes for each doubling."""
    step = max(ROWS_STEP, 1 << max((num_rows - 1).bit_length() - 3, 0))
    return -(-num_rows // step) * step


@functools.cache
def expert_program() -> Callable[..., Values]:
    """Return `run_in_tiles`, compiled when it is called.

    On the CPU each program runs on one core, beside others: two experts at a time on a core each take half the time of
    one expert on two, since every tile stays in one core's cache.
    """
    options = {"xla_cpu_multi_thread_eigen": False} if jax.default_backend() == "cpu" else None
    return jax.jit(run_in_tiles, static_argnames=("names",), compiler_options=options)


def run_in_tiles(x: jax.Array, weights: ExpertWeights, *, names: tuple[str, ...]) -> Values:
    """Return `expert_output` float32 [n, d] and the named values [n, f] of one expert for x [n, d], as `run_expert`."""
    computed = run_expert(x, weights, multiply)
    return {name: computed[name] for name in ("expert_output", *names)}


def multiply(x: jax.Array, weight: Any, dtype: Any) -> jax.Array:
    """Return x [n, k] · weight [k, m], float32 [n, m], as `product`; a matrix of several tiles is summed by them.

    A CPU has instructions for products of bfloat16 alone: there float32 x is taken in three parts.
    """
    (k, m), num_groups = weight.shape, weight.scales.shape[-2] if is_quantized(weight) else 1
    rows, columns = tile_shape((k, m), num_groups)
    if (rows, columns) == (k, m):
        return product(x, weight, dtype)
    split = x.dtype == jnp.float32 and dtype == jnp.bfloat16 and jax.default_backend() == "cpu"
    parts = in_three(x) if split else x[None]  # [parts, n, k]
    stacked = parts.reshape(-1, k)

    def sum_tiles(column: jax.Array) -> jax.Array:
        def add_tile(i: jax.Array, total: jax.Array) -> jax.Array:
            tile = widen(take_tile(weight, i * rows, rows, column, columns), dtype).astype(stacked.dtype)
            return total + contract("nk,km->nm", _take(stacked, i * rows, rows, 1), tile)

        total: jax.Array = jax.lax.fori_loop(0, k // rows, add_tile, jnp.zeros((len(stacked), columns), jnp.float32))
        return total

    sums = jax.lax.map(sum_tiles, jnp.arange(0, m, columns))  # [m / columns, parts · n, columns]
    total: jax.Array = jnp.sum(jnp.swapaxes(sums, 0, 1).reshape(len(parts), -1, m), axis=0)
    return total


def in_three(x: jax.Array) -> jax.Array:
    """Return bfloat16 [3, n, k] whose sum is x float32 [n, k]: of its 24 bits each holds 8."""
    parts = []
    for _ in range(3):
        parts.append(round_to(x, jnp.bfloat16))
        x = x - parts[-1].astype(jnp.float32)
    return jnp.stack(parts)


def take_tile(weight: Any, row: jax.Array, rows: int, column: jax.Array, columns: int) -> Any:
    """Return so many rows and columns of a stored matrix; of scales the one row that is theirs."""
    if not is_quantized(weight):
        return _take(_take(weight, row, rows, 0), column, columns, 1)
    group = weight.weight.shape[0] // weight.scales.shape[0]
    scales = take_tile(weight.scales, row // group, 1, column, columns)
    return QuantizedWeight8bit(take_tile(weight.weight, row, rows, column, columns), scales)


def widen(tile: Any, dtype: Any) -> jax.Array:
    """Return a tile as `computable` does; a CPU casts to bfloat16 by rounding once more, which is left out."""
    if not is_quantized(tile) or not tile.scales.dtype == dtype == jnp.bfloat16:
        return computable(tile, dtype)
    exact = tile.weight.astype(jnp.float32) * tile.scales.astype(jnp.float32)
    bits = jax.lax.reduce_precision(exact, exponent_bits=8, mantissa_bits=7).view(jnp.uint32)
    return (bits >> 16).astype(jnp.uint16).view(jnp.bfloat16)  # a bfloat16 is the upper half of a float32


def _largest_divisor(number: int, limit: int) -> int:
    return next(size for size in range(min(number, limit), 0, -1) if number % size == 0)


def _take(x: Any, start: Any, size: int, axis: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
