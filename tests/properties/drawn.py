"""What the properties are drawn from: weights to quantise, and configurations of which no two axes need agree."""

from __future__ import annotations

from typing import Any

import hypothesis.extra.numpy as arrays
import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from grok_conformance.reference import LanguageModelConfig, TransformerConfig

SCALES_DTYPES = st.sampled_from([np.dtype(np.float32), np.dtype(ml_dtypes.bfloat16)])

MAGNITUDES = st.floats(2**-60, 2**60, width=32)
DENORMALS = st.floats(2**-149, 2**-127, width=32)
ELEMENTS = st.just(0.0) | MAGNITUDES | MAGNITUDES.map(lambda x: -x)


@st.composite
def grouped_weights(draw: st.DrawFn, elements: st.SearchStrategy[float] = ELEMENTS) -> tuple[Any, int]:
    """Draw a float32 weight [..., k, n] and the number of groups G into which its rows divide; some groups are 0."""
    num_groups, rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    leading = draw(st.sampled_from([(), (2,)]))
    w = draw(arrays.arrays(np.float32, (*leading, num_groups, rows, columns), elements=elements))
    kinds = draw(arrays.arrays(np.int8, (*leading, num_groups, 1, columns), elements=st.integers(0, 3)))
    return np.where(kinds == 0, np.float32(0), w).reshape(*leading, num_groups * rows, columns), num_groups


@st.composite
def configs(draw: st.DrawFn) -> LanguageModelConfig:
    """Draw a configuration, dense or with experts."""
    num_experts = draw(st.integers(1, 9))
    num_kv_heads = draw(st.integers(1, 4))
    model = TransformerConfig(
        emb_size=draw(st.integers(1, 96)),
        widening_factor=draw(st.sampled_from([1.0, 2.0, 2.5, 4.0, 8.0])),
        key_size=2 * draw(st.integers(1, 16)),
        num_q_heads=num_kv_heads * draw(st.integers(1, 6)),
        num_kv_heads=num_kv_heads,
        num_layers=draw(st.sampled_from([1, 2, 11])),
        num_experts=num_experts,
        num_selected_experts=draw(st.integers(1, num_experts)),
    )
    return LanguageModelConfig(
        model=model,
        vocab_size=draw(st.integers(1, 200)),
        pad_token=0,
        eos_token=2,
        sequence_len=draw(st.integers(1, 64)),
    )
