"""The wiring of the compiled port, with its compiler standing by: compiling takes minutes and is judged by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from grok_conformance.candidates import torch_compiled
from tests.candidates.tiny_models import MODELS, ints, load, random_tokens, random_weights

# What the compiler itself imports is none of ours.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

TOKENS, LENGTHS = random_tokens(2, 5), ints(5, 3)


def compiled(name: str, fprop_dtype: str) -> torch_compiled.CompiledModel:
    config, num_groups, scales_dtype = MODELS[name]
    weights = random_weights(config, num_groups, scales_dtype)
    return torch_compiled.load(replace(config, fprop_dtype=fprop_dtype), weights)


@pytest.mark.parametrize("fprop_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["4 groups", "16 groups, float32 scales", "plain", "dense"])
def test_weights_multiplied_out_at_load_give_the_eager_ports_taps_bit_for_bit(name: str, fprop_dtype: str) -> None:
    with torch.compiler.set_stance("force_eager"):
        observed = compiled(name, fprop_dtype).prefill(TOKENS, LENGTHS, ("*",))
    expected = load(name, fprop_dtype).prefill(TOKENS, LENGTHS, ("*",))
    assert list(observed) == list(expected)
    for tap, value in expected.items():
        assert np.array_equal(observed[tap], value), tap


def test_decoding_goes_on_from_the_cache() -> None:
    with torch.compiler.set_stance("force_eager"):
        model = compiled("4 groups", "float32")
        model.prefill(TOKENS, LENGTHS, ())
        observed = model.decode(TOKENS[:, :1], ("logits",))["logits"]
    eager = load("4 groups")
    eager.prefill(TOKENS, LENGTHS, ())
    assert np.array_equal(observed, eager.decode(TOKENS[:, :1], ("logits",))["logits"])
