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


def round_to(x: jax.Array, dtype: Any) -> jax.Array:
    """Return x in `dtype`, rounded to nearest even.

    Published behaviour, mended (SPEC §9): a compiler may drop a cast to a narrower dtype and back, so that the
    published numbers depend on it. `jax.lax.reduce_precision` may not be dropped: the canonical program rounds wherever
    the specification says so. With `pinned_rounding(False)` the cast is left to the compiler.
    """
    dtype = jnp.dtype(dtype)
    if _PINNED.get() and jnp.finfo(dtype).bits < jnp.finfo(x.dtype).bits:
        narrow = jnp.finfo(dtype)
        x = jax.lax.reduce_precision(x, exponent_bits=narrow.nexp, mantissa_bits=narrow.nmant)
    return x.astype(dtype)
