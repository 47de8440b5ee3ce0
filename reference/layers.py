"""The layers that the attention and the experts are made of (SPEC §4)."""

from __future__ import annotations

from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.partitioning import num_model_shards, with_sharding_constraint
from grok_conformance.reference.quantization import QuantizedWeight8bit, dequantize, is_quantized, split_groups
from grok_conformance.reference.rounding import round_to, rounding_is_pinned

ZEROS = hk.initializers.Constant(0)
"""How every parameter is initialised. Published behaviour, kept (SPEC §9): the scales of the norms too."""


def contract(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the einsum of x and y in float32: exact products, float32 sums, on every platform (SPEC §4).

    Unpinned it has the dtype of its operands, as in the published source: a compiler that multiplies bfloat16 in
    float32 may then pass the unrounded sums on.
    """
    dtype = jnp.float32 if rounding_is_pinned() else None
    return jnp.einsum(equation, x, y, precision=jax.lax.Precision.HIGHEST, preferred_element_type=dtype)


def computable(weight: Any, dtype: Any) -> jax.Array:
    """Return a stored weight as an array of the compute dtype (SPEC §3).

    Published behaviour, fixed (SPEC §9): nothing is rounded to bfloat16 when computing in float32. The scales are
    widened then, and the product with them is taken in float32.
    """
    if is_quantized(weight):
        scales = weight.scales.astype(jnp.promote_types(weight.scales.dtype, dtype))
        weight = dequantize(QuantizedWeight8bit(weight.weight, scales))
    return round_to(weight, dtype)


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x + y in their dtype, rounded once."""
    return round_to(x.astype(jnp.float32) + y.astype(jnp.float32), x.dtype)


class Linear(hk.Module):
    """x · w + b in the dtype of x; w [k, n] plain or quantised with any number of groups (SPEC §2, §3).

    `spec` places w when it is used: P(None, axis) is column-parallel, P(axis, None) row-parallel. Summed in float32 and
    rounded once, over model shards too. No linear layer of Grok-1 has a bias.
    Published behaviours, fixed (SPEC §9): batch and time stay apart, and any batch works; any number of groups of
    scales works on any number of model shards.
    """

    def __init__(self, output_size: int, spec: P, *, with_bias: bool = False, name: str | None = None) -> None:
        """Make a layer with `output_size` columns."""
        super().__init__(name=name)
        self.output_size = output_size
        self.spec = spec
        self.with_bias = with_bias

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return [..., n] for x [..., k]."""
        w = hk.get_parameter("w", (x.shape[-1], self.output_size), jnp.float32, init=ZEROS)
        y = round_to(self.product(x, self._placed(w)), x.dtype)
        if self.with_bias:
            y = add(y, round_to(hk.get_parameter("b", (self.output_size,), jnp.float32, init=ZEROS), x.dtype))
        return y

    def product(self, x: jax.Array, w: Any) -> jax.Array:
        """Return x · w, float32 [..., n], for w as stored; a streamed model takes it in another order."""
        return contract("...k,kn->...n", x, computable(w, x.dtype))

    def _placed(self, w: Any) -> Any:
        row_parallel = self.spec[0] is not None
        if is_quantized(w) and row_parallel:
            w = split_groups(w, num_model_shards())
        return jax.tree.map(lambda leaf: with_sharding_constraint(leaf, self.spec), w)


class RMSNorm(hk.Module):
    """x · rsqrt(mean(x²) + 1e-5) · scale over the last axis, in float32, rounded to the dtype of x (SPEC §4)."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """Return the norm of x [..., d]."""
        scale = hk.get_parameter("scale", x.shape[-1:], jnp.float32, init=ZEROS)
        wide = x.astype(jnp.float32)
        mean_square = contract("...d,d->...", jnp.square(wide), jnp.ones(x.shape[-1:]))[..., None] / x.shape[-1]
        return round_to(wide * jax.lax.rsqrt(mean_square + 1e-5) * scale, x.dtype)


def rotate_half(x: jax.Array) -> jax.Array:
    """Return concat(-x2, x1) for x = concat(x1, x2) on the last axis (SPEC §4.4)."""
    x1, x2 = jnp.split(x, 2, axis=-1)
    return jnp.concatenate((-x2, x1), axis=-1)


class RotaryEmbedding(hk.Module):
    """Half-split rotation of heads [b, t, heads, h] by their positions, in float32 (SPEC §4.4)."""

    def __init__(self, dim: int, base_exponent: float = 10000.0, name: str | None = None) -> None:
        """Make the rotation of heads of width `dim`, which is even."""
        super().__init__(name=name)
        self.inverse_frequencies = np.float32(base_exponent ** (-np.arange(0, dim, 2) / dim))  # [h / 2]

    def __call__(self, x: jax.Array, positions: jax.Array) -> jax.Array:
        """Return x [b, t, heads, h] rotated by its positions [b or 1, t], in the dtype of x."""
        phase = positions.astype(jnp.float32)[:, :, None, None] * self.inverse_frequencies  # [b, t, 1, h / 2]
        phase = jnp.concatenate((phase, phase), axis=-1)  # [b, t, 1, h]
        wide = x.astype(jnp.float32)
        straight = round_to(wide * jnp.cos(phase), jnp.float32)
        crossed = round_to(rotate_half(wide) * jnp.sin(phase), jnp.float32)
        return round_to(straight + crossed, x.dtype)


class InOutEmbed(hk.Module):
    """The embedding table [v, d], used at both ends of the model (SPEC §4.2, §4.8)."""

    def __init__(self, vocab_size: int, embed_dim: int, name: str | None = None) -> None:
        """Make a table of `vocab_size` rows."""
        super().__init__(name=name)
        self.vocab_size = vocab_size
        self.embed_dim = embed_dim

    @property
    def embeddings(self) -> jax.Array:
        """The table as stored, float32 [v, d]."""
        return hk.get_parameter("embeddings", (self.vocab_size, self.embed_dim), jnp.float32, init=ZEROS)

    def __call__(self, tokens: jax.Array, dtype: Any, multiplier: float) -> jax.Array:
        """Return the rows of tokens [b, t] times the multiplier, [b, t, d]; row, multiplier and product are rounded."""
        rows = round_to(self.embeddings[tokens], dtype)  # [b, t, d]
        return scaled(rows, multiplier)

    def decode(self, x: jax.Array) -> jax.Array:
        """Return x · embeddingsᵀ, [b, t, v] in the dtype of x [b, t, d]."""
        return round_to(contract("btd,vd->btv", x, round_to(self.embeddings, x.dtype)), x.dtype)


def scaled(x: jax.Array, multiplier: float) -> jax.Array:
    """Return x · multiplier in the dtype of x, to which the multiplier is rounded too.

    Published behaviour, kept (SPEC §9): in bfloat16 Grok-1 multiplies by 78.5 and 0.578125.
    """
    return round_to(x.astype(jnp.float32) * np.asarray(multiplier, x.dtype).astype(np.float32), x.dtype)
