"""One expert's feed-forward block on its tokens, in tiles of the hidden width (SPEC §4.6).

An int8 matrix is never dequantised as a whole: a tile of it is widened, rounded and multiplied while it is in the
processor's cache. The products are those of `reference.experts.run_expert`; the sums over f are taken tile by tile.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from grok_conformance.reference.experts import ExpertWeights, run_expert
from grok_conformance.reference.layers import contract
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized

MIN_TILE = 64
"""Columns of linear and linear_v that are widened at a time: 1.5 MB of float32 each for Grok-1, for a core's cache."""

MAX_WHOLE = 256
"""A hidden width up to this is one tile."""

ROWS_STEP = 8
"""Rows are padded to a multiple of this, so that few programs are compiled and the vector units are full."""

Values = dict[str, jax.Array]


def tile_size(num_columns: int, num_groups: int) -> int:
    """Return the columns f of a tile: the least divisor of a group of scales that reaches MIN_TILE, or all if few."""
    if num_columns <= MAX_WHOLE:
        return num_columns
    group = num_columns // num_groups
    return next(size for size in range(min(MIN_TILE, group), group + 1) if group % size == 0)


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
    num_columns = weights.linear.shape[-1]
    num_groups = weights.linear_1.scales.shape[-2] if is_quantized(weights.linear_1) else 1
    size = tile_size(num_columns, num_groups)

    def run_tile(output: jax.Array, i: jax.Array) -> tuple[jax.Array, Values]:
        computed = run_expert(x, take_tile(weights, i, size), multiply)
        # In float32 until the end: the CPU would widen and narrow a whole bfloat16 array for each tile put into it.
        return output + computed["expert_output"], {name: computed[name].astype(jnp.float32) for name in names}

    one_tile = jax.eval_shape(lambda: run_expert(x, take_tile(weights, jnp.int32(0), size)))
    output = jnp.zeros(one_tile["expert_output"].shape, jnp.float32)
    output, tiles = jax.lax.scan(run_tile, output, jnp.arange(num_columns // size))  # tiles [f / size, n, size]
    wide = {name: jnp.swapaxes(tile, 0, 1).reshape(x.shape[0], num_columns) for name, tile in tiles.items()}
    return {"expert_output": output, **{name: value.astype(one_tile[name].dtype) for name, value in wide.items()}}


def take_tile(weights: ExpertWeights, i: jax.Array, size: int) -> ExpertWeights:
    """Return tile i of one expert: `size` columns of linear and linear_v, and as many rows of linear_1."""
    columns = functools.partial(_take, start=i * size, size=size, axis=1)
    linear_1 = weights.linear_1
    if is_quantized(linear_1):
        num_groups = linear_1.scales.shape[-2]
        group = linear_1.weight.shape[0] // num_groups
        scales = linear_1.scales if size > group else _take(linear_1.scales, i * size // group, 1, 0)
        linear_1 = QuantizedWeight8bit(_take(linear_1.weight, i * size, size, 0), scales)
    else:
        linear_1 = _take(linear_1, i * size, size, 0)
    return ExpertWeights(jax.tree.map(columns, weights.linear), jax.tree.map(columns, weights.linear_v), linear_1)


def multiply(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the einsum in float32; on the CPU, which multiplies bfloat16 slowly, of operands widened before."""
    if jax.default_backend() == "cpu":
        x, y = x.astype(jnp.float32), y.astype(jnp.float32)
    return contract(equation, x, y)


def _take(x: Any, start: Any, size: int, axis: int) -> Any:
    return jax.lax.dynamic_slice_in_dim(x, start, size, axis)
