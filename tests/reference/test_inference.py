"""The model is run on sound input alone: what is wrong is said in one line before any compute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import LanguageModelConfig, TransformerConfig
from tests.reference.published import run, tree

CONFIG = LanguageModelConfig(
    model=TransformerConfig(
        emb_size=48,
        widening_factor=4,
        key_size=8,
        num_q_heads=16,
        num_kv_heads=4,
        num_layers=1,
        attn_output_multiplier=0.0884,
        num_experts=5,
        num_selected_experts=2,
    ),
    vocab_size=61,
    pad_token=0,
    eos_token=2,
    sequence_len=12,
    embedding_multiplier_scale=78.38367176906169,
    output_multiplier_scale=0.5773502691896257,
    fprop_dtype="float32",
)


TOKENS = np.random.default_rng(0).integers(1, 61, (3, 6)).astype(np.int32)


def model(num_groups: int, dtype: str = "float32", **changes: Any) -> tuple[reference.LanguageModelConfig, Any]:
    config = replace(CONFIG, model=replace(CONFIG.model, **changes))
    params = tree(synthesize(config, Statistics(seed=9, num_groups=num_groups)))
    fields = vars(config) | {
        "fprop_dtype": jnp.dtype(dtype),
        "model": reference.TransformerConfig(**vars(config.model)),
    }
    return reference.LanguageModelConfig(**fields), params


@pytest.mark.parametrize(
    ("tokens", "keywords", "message"),
    [
        (np.array([[1, 61]]), {}, "token id 61 at row 0, position 1"),
        (np.array([[-1, 5]]), {}, "token id -1 at row 0, position 0"),
        (TOKENS, {"memory": 4}, "row 0: 6 tokens at step 0 do not fit"),
        (TOKENS, {"mesh": (1, 3)}, "3"),
        (TOKENS, {"mesh": (4, 4)}, "16 devices"),
    ],
)
def test_bad_input_is_a_one_line_error_before_any_compute(tokens: Any, keywords: dict[str, Any], message: str) -> None:
    config, params = model(num_groups=4)
    make: dict[str, Callable[[Any], Any]] = {
        "memory": lambda slots: reference.init_memory(config, 3, slots),
        "mesh": reference.make_mesh,
    }

    def apply() -> None:
        run(config, params, tokens, **{name: make[name](value) for name, value in keywords.items()})

    with pytest.raises(ValueError, match=message) as raised:
        apply()
    assert "\n" not in str(raised.value)
