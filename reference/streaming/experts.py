"""An expert's products with rows of its matrices, tile by tile (SPEC §4.6).

An int8 matrix is never dequantised as a whole: a tile of it is widened, rounded and multiplied while it is in the
processor's cache. The products are those of `reference.experts.run_expert`; their sums are taken tile by tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from grok_conformance.reference import experts
from grok_conformance.reference.experts import expert_dtype, product
from grok_conformance.reference.layers import computable, contract
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized
from grok_conformance.reference.rounding import round_to
from grok_conformance.reference.streaming.blocks import MatrixInBlocks, take_rows
from grok_conformance.reference.streaming.pieces import largest_divisor

MAX_ROWS = 256
"""Of a tile, whose bfloat16 values are to stay in the cache of one core."""

MAX_COLUMNS = 4096
"""Of a tile: a page of int8. Of shorter pieces of rows the processor fetches none ahead, and waits for each."""

ROWS_STEP = 8
"""Rows are padded to a multiple of this, so that few programs are compiled and the vector units are full."""

CPU_OPTIONS = {"xla_cpu_multi_thread_eigen": False, "xla_cpu_prefer_vector_width": 512}
"""One core for a program, beside others, and the widest vectors: two products at a time on a core each take half the
time of one on two, since every tile stays in one core's cache."""

Values = dict[str, jax.Array]


def tile_shape(shape: tuple[int, int], num_groups: int) -> tuple[int, int]:
    """Return rows and columns of the tiles of a matrix: they divide it, and none straddles groups of scales.

    A matrix no larger than a tile may be is its only tile.
    """
    k, m = shape
    if k * m <= MAX_ROWS * MAX_COLUMNS:
        return shape
    return largest_divisor(k // num_groups, MAX_ROWS), largest_divisor(m, MAX_COLUMNS)


def padded_rows(num_rows: int) -> int:
    """Return the number of rows that is computed for so many: four sizes for each doubling."""
    step = max(ROWS_STEP, 1 << max((num_rows - 1).bit_length() - 3, 0))
    return -(-num_rows // step) * step


def multiply(x: Any, weight: Any, *, fprop_dtype: Any) -> jax.Array:
    """Return the product float32 [n, m] of values x [n, k] and a stored matrix [k, m], in the dtype of the expert."""
    made: jax.Array = _compiled(_multiply, "fprop_dtype")(x, weight, fprop_dtype=jnp.dtype(fprop_dtype))
    return made


def gate(activation: Sequence[Any], up: Sequence[Any], *, dtypes: tuple[Any, Any]) -> Values:
    """Return what an expert has before its last product [n, f], given the summands of its first two, float32 [n, f]."""
    values: Values = _compiled(_gate, "dtypes")(activation, up, dtypes=tuple(map(jnp.dtype, dtypes)))
    return values


@functools.cache
def _compiled(function: Callable[..., Any], static: str) -> Callable[..., Any]:
    options = CPU_OPTIONS if jax.default_backend() == "cpu" else None
    return jax.jit(function, static_argnames=static, compiler_options=options)


def _multiply(x: jax.Array, weight: Any, *, fprop_dtype: Any) -> jax.Array:
    dtype = expert_dtype(weight, fprop_dtype)
    return product_in_tiles(x.astype(jnp.promote_types(x.dtype, dtype)), weight, dtype)


def multiply_rows(x: jax.Array, weight: Any) -> jax.Array:
    """Return the product float32 [..., m] of values x [..., k] and a stored matrix [k, m], in the dtype of x."""
    rows = x.reshape(-1, x.shape[-1])
    missing = padded_rows(len(rows)) - len(rows)  # a CPU multiplies one row in more time than eight
    product = product_in_tiles(jnp.pad(rows, ((0, missing), (0, 0))), weight, x.dtype)
    return product[: len(rows)].reshape(*x.shape[:-1], -1)


def _gate(activation: Sequence[jax.Array], up: Sequence[jax.Array], *, dtypes: tuple[Any, Any]) -> Values:
    sums = (functools.reduce(jnp.add, summands) for summands in (activation, up))
    first, second = (round_to(total, dtype) for total, dtype in zip(sums, dtypes, strict=True))
    return {"expert_activation": first, "expert_up": second, "expert_hidden": experts.gate(first, second)}


def product_in_tiles(x: jax.Array, weight: Any, dtype: Any) -> jax.Array:
    """Return x [n, k] · weight [k, m], float32 [n, m], as `product`; a matrix of several tiles is summed by them.

    A CPU has instructions for products of bfloat16 alone: there float32 x is taken in three parts.
    """
    (k, m), num_groups = weight.shape, weight.scales.shape[-2] if is_quantized(weight) else 1
    rows, columns = tile_shape((k, m), num_groups)
    if (rows, columns) == (k, m):
        return product(x, as_arrays(weight), dtype)
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
    products = jnp.swapaxes(sums, 0, 1).reshape(len(parts), -1, m)
    total: jax.Array = functools.reduce(jnp.add, products[::-1])  # the least part first
    return total


def in_three(x: jax.Array) -> jax.Array:
    """Return bfloat16 [3, n, k] whose sum is x float32 [n, k]: of its 24 bits each holds 8."""
    parts = []
    for _ in range(3):
        parts.append(round_to(x, jnp.bfloat16))
        x = x - parts[-1].astype(jnp.float32)
    return jnp.stack(parts)


def as_arrays(weight: Any) -> Any:
    """Return a stored matrix, as an array if it lies in blocks of a file."""
    if is_quantized(weight):
        return QuantizedWeight8bit(as_arrays(weight.weight), weight.scales)
    return take_rows(weight, 0, weight.shape[0]) if isinstance(weight, MatrixInBlocks) else weight


def take_tile(weight: Any, row: jax.Array, rows: int, column: jax.Array, columns: int) -> Any:
    """Return so many rows and columns of a stored matrix; of scales the one row that is theirs."""
    if isinstance(weight, MatrixInBlocks):
        return _take(take_rows(weight, row, rows), column, columns, 1)
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


def _take(x: Any, start: Any, size: int, axis: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
