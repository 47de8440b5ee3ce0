"""Synthetic weights have the statistics that a preset asks for, in the stored form."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.cases.synthesis import Statistics, synthesize

ROUTER = "transformer/decoder_layer_0/router/w"
HEADS = "transformer/decoder_layer_1/multi_head_attention/linear/w"


def test_equal_seeds_give_equal_weights_and_others_do_not() -> None:
    first, again, other = (synthesize(UNEQUAL, Statistics(seed=seed)) for seed in (3, 3, 4))
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first[ROUTER], other[ROUTER])


def test_row_parallel_matrices_have_a_scale_per_group_and_channel() -> None:
    weights = synthesize(UNEQUAL, Statistics(seed=0, num_groups=4, scales_dtype="float32"))
    d, q, h = (UNEQUAL.axis_sizes[axis] for axis in "dqh")
    assert (weights[f"{HEADS}.weight"].dtype.name, weights[f"{HEADS}.weight"].shape) == ("int8", (q * h, d))
    assert (weights[f"{HEADS}.scales"].dtype.name, weights[f"{HEADS}.scales"].shape) == ("float32", (4, d))
    assert np.abs(weights[f"{HEADS}.weight"].astype(int)).max() == 127


def test_plain_matrices_have_no_scales() -> None:
    weights = synthesize(UNEQUAL, Statistics(seed=0, scales_dtype=None))
    assert weights[HEADS].dtype == np.float32
    assert not [name for name in weights if name.endswith((".weight", ".scales"))]


def test_tied_experts_share_a_column_and_a_shift_moves_every_column() -> None:
    w = synthesize(UNEQUAL, Statistics(seed=0, tied_experts=(1, 3), router_shift=-5.0))[ROUTER]
    np.testing.assert_array_equal(w[:, 1], w[:, 3])
    assert w.mean() == pytest.approx(-5.0, abs=0.2)


def test_a_dense_model_has_no_router_and_no_axis_of_experts() -> None:
    dense = replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1, num_selected_experts=1))
    weights = synthesize(dense, Statistics(seed=0, scales_dtype=None))
    assert not [name for name in weights if "router" in name or "/moe/" in name]
    assert weights["transformer/decoder_layer_0/linear/w"].ndim == 2
