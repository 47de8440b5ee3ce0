"""Rounding where the specification says so, on every platform (SPEC §9, first row)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

_PINNED: ContextVar[bool] = ContextVar("pinned", default=True)


@contextmanager
def pinned_rounding(pinned: bool) -> Iterator[None]:  # noqa: FBT001 - the value itself, not a mode of the function
    """Decide, for what is traced inside, whether `round_to` binds the compiler (True outside of any context)."""
    token = _PINNED.set(pinned)
    try:
        yield
    finally:
        _PINNED.reset(token)


def rounding_is_pinned() -> bool:
    """Whether what is traced here binds the compiler to its roundings."""
    return _PINNED.get()


def round_to(x: jax.Array, dtype: Any) -> jax.Array:
    """Return x in `dtype`, rounded to nearest even: its consumers get this value and no other.

    Published behaviour, fixed (SPEC §9): a compiler may drop a cast to a narrower dtype and back, so that the
    published numbers depend on it. `jax.lax.reduce_precision` may not be dropped: the canonical program rounds wherever
    the specification says so. Nor may the compiler contract a float32 product with the sum that consumes it into one
    operation without the rounding between, as it would or would not according to what else it fuses: the
    values would depend on which of them are shown. With `pinned_rounding(False)` all that is left to the compiler.
    """
    if rounding_is_pinned() and x.dtype == jnp.float32:
        narrow = jnp.finfo(dtype)
        if narrow.bits < jnp.finfo(x.dtype).bits:
            x = jax.lax.reduce_precision(x, exponent_bits=narrow.nexp, mantissa_bits=narrow.nmant)
        else:
            x = jnp.where(jnp.isnan(x), jnp.nan, x)  # the identity, but no compiler contracts a product through it
    return x.astype(dtype)
