"""Values that were rounded betray it by the grid on which they lie."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from grok_conformance.harness.measure.rounding_grid import MIN_ELEMENTS, grid_of, share_on_grid

HONEST = np.random.default_rng(0).standard_normal(4096).astype(np.float32)


def tf32(x: np.ndarray) -> np.ndarray:
    return ((x.view(np.uint32) + np.uint32(1 << 12)) & ~np.uint32((1 << 13) - 1)).view(np.float32)


ROUNDED = {
    "bfloat16": HONEST.astype(ml_dtypes.bfloat16).astype(np.float32),
    "float16": HONEST.astype(np.float16).astype(np.float32),
    "TF32": tf32(HONEST) * np.float32(2.0**-20),  # beyond the range of float16
}


@pytest.mark.parametrize("dtype", ROUNDED)
def test_values_rounded_to_a_dtype_lie_on_its_grid(dtype: str) -> None:
    assert share_on_grid(ROUNDED[dtype], dtype) == 1
    assert grid_of(ROUNDED[dtype].astype(np.float64)) == dtype


def test_honest_float32_values_lie_on_no_grid() -> None:
    assert max(share_on_grid(HONEST, dtype) for dtype in ROUNDED) < 0.01
    assert not grid_of(HONEST)


def test_zeros_and_a_few_values_tell_nothing() -> None:
    few = ROUNDED["bfloat16"][: MIN_ELEMENTS - 1]
    assert not grid_of(np.concatenate((few, np.zeros(100, np.float32))))
    assert share_on_grid(np.zeros(3, np.float32), "bfloat16") == 0
