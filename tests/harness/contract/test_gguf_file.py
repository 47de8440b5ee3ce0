"""Weights for a GGUF file are the stored ones, multiplied out."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.contract import Array, grok_1
from grok_conformance.harness.contract.gguf_file import as_written, dequantized, kind_of, kind_of_weight


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


def test_rows_of_no_whole_blocks_stay_in_16_bits_and_gains_in_32() -> None:
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    query, gain = grok_1.OF_A_LAYER[grok_1.QUERY], grok_1.OF_A_LAYER[grok_1.GAINS[0]]
    assert [kind_of_weight(query, "q8_0", size) for size in (64, 40)] == [kinds.Q8_0, kinds.BF16]
    assert [kind_of_weight(gain, "q8_0", size) for size in (64, 40)] == [kinds.F32, kinds.F32]


def test_experts_are_written_one_after_the_other_each_the_other_way_round() -> None:
    kinds = pytest.importorskip("gguf").GGMLQuantizationType
    stored = np.arange(24, dtype=np.int8).reshape(3, 2, 4)
    scales = np.array([1.0, 2.0, 4.0], np.float32).reshape(3, 1, 1) * np.ones((3, 1, 4), np.float32)
    weights: dict[str, Array] = {"w.weight": stored, "w.scales": scales}
    written = as_written(weights, "w", grok_1.OF_A_LAYER[grok_1.EXPERT_UP], kinds.F32)
    assert (written == np.swapaxes(stored * scales, 1, 2)).all()
