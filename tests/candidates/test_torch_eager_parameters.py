from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.candidates import torch_eager
from grok_conformance.harness.contract import DTYPES, Array, Unsupported
from tests.candidates.tiny_models import CONFIG, MODELS, ints, random_tokens, random_weights


def test_float32_widens_bfloat16_scales_before_they_multiply() -> None:
    weights, tokens = random_weights(*MODELS["4 groups"]), random_tokens(1, 6)
    wide = {name: array.astype(np.float32) for name, array in weights.items() if name.endswith(".scales")}
    narrow_logits, wide_logits = (
        torch_eager.load(CONFIG, stored).prefill(tokens, ints(6), ["logits"])["logits"]
        for stored in (weights, weights | wide)
    )
    np.testing.assert_array_equal(narrow_logits, wide_logits)


@settings(deadline=None)
@given(
    num_groups=st.integers(1, 5),
    rows_per_group=st.integers(1, 4),
    experts=st.lists(st.integers(1, 3), max_size=1),
    dtype=st.sampled_from([DTYPES["bfloat16"], DTYPES["float32"]]),
    seed=st.integers(0, 99),
)
def test_dequantize_scales_contiguous_groups_and_rounds_to_the_scales_dtype(
    num_groups: int, rows_per_group: int, experts: list[int], dtype: np.dtype[Any], seed: int
) -> None:
    random = np.random.default_rng(seed)
    weight = random.integers(-128, 128, (*experts, num_groups * rows_per_group, 3), np.int8)
    scales = random.uniform(0.001, 1, (*experts, num_groups, 3)).astype(dtype)
    rows = np.repeat(scales.astype(np.float64), rows_per_group, axis=-2)
    observed = torch_eager.dequantize(weight, scales)
    assert observed.dtype == dtype
    np.testing.assert_array_equal(observed, (weight * rows).astype(np.float32).astype(dtype))


# Errors


QUERY, LINEAR = (f"transformer/decoder_layer_1/multi_head_attention/{name}/w" for name in ("query", "linear"))
BAD_WEIGHTS: Mapping[str, dict[str, Array | None]] = {
    f"{QUERY} is missing; store it plain or as": {f"{QUERY}.weight": None},
    f"{QUERY}.scales is missing; store it beside": {f"{QUERY}.scales": None},
    f"{QUERY} has shape (48, 24); the configuration needs (24, 48)": {f"{QUERY}.weight": np.zeros((48, 24), np.int8)},
    f"{QUERY} is float32; store floats plain": {f"{QUERY}.weight": np.zeros((24, 48), np.float32)},
    f"{LINEAR}.scales has shape (5, 24); use ('G', 24) with G dividing 48": {
        f"{LINEAR}.scales": np.ones((5, 24), np.float32)
    },
    "head/w is not a parameter of this configuration": {"head/w": np.zeros((24, 37), np.float32)},
}


@pytest.mark.parametrize("message", BAD_WEIGHTS)
def test_weights_that_do_not_fit_are_refused(message: str) -> None:
    changed: dict[str, Array | None] = {**random_weights(*MODELS["4 groups"]), **BAD_WEIGHTS[message]}
    weights = {name: array for name, array in changed.items() if array is not None}
    with pytest.raises(ValueError, match=f"^weights: {re.escape(message)}.*$"):
        torch_eager.load(CONFIG, weights)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"num_kv_heads": 4}, r"^num_q_heads 6 must be a multiple of num_kv_heads 4$"),
        ({"key_size": 7}, r"^key_size 7 must be even: "),
        ({"num_selected_experts": 6}, r"^num_selected_experts 6 must lie in 1\.\.5$"),
    ],
)
def test_a_configuration_whose_sizes_do_not_fit_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        torch_eager.load(replace(CONFIG, model=replace(CONFIG.model, **changed)), {})


def test_another_compute_dtype_is_unsupported() -> None:
    with pytest.raises(Unsupported, match=r"^fprop_dtype 'float16': torch_eager computes in float32 or bfloat16$"):
        torch_eager.load(replace(CONFIG, fprop_dtype="float16"), {})
