"""Weights stored as 8-bit integers with one scale per output channel and group of input rows (SPEC §3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from grok_conformance.reference.rounding import round_to

MAX_WEIGHT = 127


@jax.tree_util.register_dataclass
@dataclass(frozen=True, eq=False)
class QuantizedWeight8bit:
    """A weight [..., k, n] as int8, and its scales [..., G, n], one row per contiguous group of k/G rows (SPEC §3).

    A pytree node with two children. They may also be anything that stands for an array, such as its sharding.
    """

    weight: Any
    scales: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the weight."""
        return tuple(self.weight.shape)


def is_quantized(leaf: Any) -> bool:
    """Whether a value is a QuantizedWeight8bit, which counts as one leaf of a parameter tree (SPEC §2)."""
    return isinstance(leaf, QuantizedWeight8bit)


def quantize(w: Any, num_groups: int = 1, scales_dtype: Any = jnp.bfloat16) -> QuantizedWeight8bit:
    """Quantise a float weight [..., k, n], symmetrically per output channel and group (SPEC §3).

    The scale is max|w| / 127, rounded to `scales_dtype` before the weight is divided by it; quotients round half to
    even. A group of zeros gets scale 1. Host arrays: weight int8 [..., k, n], scales [..., G, n].
    Raises ValueError if a value is not finite or the rows do not divide into `num_groups`.
    """
    w = np.asarray(w, np.float64)  # [..., k, n]
    if not np.isfinite(w).all():
        index = np.argwhere(~np.isfinite(w))[0].tolist()
        raise ValueError(f"weight{index} is {w[tuple(index)]}: only finite weights can be quantised")
    groups = _split_rows(w, num_groups)  # [..., G, k/G, n]
    scales = scales_of(np.abs(groups).max(axis=-2), scales_dtype)  # [..., G, n]
    return QuantizedWeight8bit(to_int8(groups, scales[..., None, :]).reshape(w.shape), scales)


def scales_of(largest: Any, dtype: Any) -> np.ndarray[Any, Any]:
    """Return the scales of groups whose largest absolute values are given, in their stored dtype (SPEC §3)."""
    scales = (np.asarray(largest, np.float64) / MAX_WEIGHT).astype(dtype)
    return np.where(scales == 0, np.ones_like(scales), scales)


def to_int8(w: Any, scales: Any) -> np.ndarray[Any, Any]:
    """Return w / scales, rounded half to even, as int8 (SPEC §3)."""
    quotients = np.rint(np.asarray(w, np.float64) / np.asarray(scales, np.float64))
    return np.clip(quotients, -MAX_WEIGHT, MAX_WEIGHT).astype(np.int8)


def dequantize(quantized: QuantizedWeight8bit) -> jax.Array:
    """Return weight · scale [..., k, n], the product taken in the dtype of the scales (SPEC §3).

    Published behaviour, kept (SPEC §9): the scales' dtype is the dtype of the dequantised weight.
    Raises ValueError if the rows do not divide into the groups of the scales.
    """
    scales = jnp.asarray(quantized.scales)  # [..., G, n]
    groups = _split_rows(jnp.asarray(quantized.weight), scales.shape[-2])  # [..., G, k/G, n]
    product = groups.astype(jnp.float32) * scales[..., None, :].astype(jnp.float32)
    return round_to(product, scales.dtype).reshape(quantized.shape)


def split_groups(quantized: QuantizedWeight8bit, num_shards: int) -> QuantizedWeight8bit:
    """Return the same weight with finer groups, so that each of `num_shards` shards of the rows holds whole ones.

    Published behaviour, mended (SPEC §9): eight groups of scales run on any number of shards, which may hold several
    groups or a part of one. Scales [..., G, n] become [..., lcm(G, num_shards), n].
    """
    num_groups = quantized.scales.shape[-2]
    repeats = math.lcm(num_groups, num_shards) // num_groups
    return QuantizedWeight8bit(quantized.weight, jnp.repeat(quantized.scales, repeats, axis=-2))


def _split_rows(w: Any, num_groups: int) -> Any:
    *leading, num_rows, num_columns = w.shape
    if num_rows % num_groups:
        raise ValueError(f"{num_rows} rows do not divide into {num_groups} groups of scales")
    return w.reshape(*leading, num_groups, num_rows // num_groups, num_columns)
