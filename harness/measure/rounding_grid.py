"""The grid test: float32 values on the grid of a narrower dtype were rounded to it, whatever they claim."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from grok_conformance.harness.contract import Array

MANTISSA_BITS: Mapping[str, int] = {"bfloat16": 7, "float16": 10, "TF32": 10}
"""Stored bits of the mantissa, the narrowest first; float16 has a smaller range than TF32."""

FLOAT32_BITS = 23

MIN_ELEMENTS = 8
"""Fewer values may lie on a grid by chance: an honest float32 value does with probability 2⁻¹³ at most."""


def share_on_grid(x: Array, dtype: str) -> float:
    """Return the share, 0 to 1, of the nonzero float32 values x that are exactly representable in a narrower dtype."""
    values = x[x != 0].astype(np.float32)
    on_grid = (values.view(np.uint32) & np.uint32((1 << (FLOAT32_BITS - MANTISSA_BITS[dtype])) - 1)) == 0
    if dtype == "float16":
        with np.errstate(over="ignore"):
            on_grid &= values.astype(np.float16).astype(np.float32) == values
    return float(on_grid.mean()) if values.size else 0.0


def grid_of(x: Array) -> str:
    """Return the narrowest dtype on whose grid more than half of the values lie, an empty string for none."""
    if np.count_nonzero(x) < MIN_ELEMENTS:
        return ""
    return next((dtype for dtype in MANTISSA_BITS if share_on_grid(x, dtype) > 1 / 2), "")
