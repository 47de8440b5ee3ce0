"""Weights for a GGUF file are the stored ones, multiplied out."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.gguf_file import dequantized, kind_of


def test_scales_belong_to_contiguous_groups_of_rows() -> None:
    weights: dict[str, Array] = {
        "w.weight": np.ones((4, 2), np.int8),
        "w.scales": np.array([[1.0, 2.0], [3.0, 4.0]], np.float32),
        "v": np.full(3, 0.5, np.float64),
    }
    assert dequantized(weights, "w").tolist() == [[1, 2], [1, 2], [3, 4], [3, 4]]
    assert (dequantized(weights, "v").dtype.name, dequantized(weights, "v").tolist()) == ("float32", [0.5] * 3)


def test_matrices_are_kept_in_bfloat16_or_in_eight_bits() -> None:
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    assert (kind_of("bfloat16"), kind_of("q8_0")) == (kinds.BF16, kinds.Q8_0)
