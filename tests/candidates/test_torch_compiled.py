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

TILES = {"float32": 1e-5, "bfloat16": 2e-2}
"""Beside the largest value: a library may sum a narrower product in another order."""

TOKENS, LENGTHS = random_tokens(2, 5), ints(5, 3)
SUMS_IN_ANOTHER_ORDER = 1e-5
"""Beside the largest value: one token scales sums, not weights."""


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


@pytest.mark.parametrize("fprop_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["4 groups", "16 groups, float32 scales"])
def test_experts_that_are_too_large_to_be_kept_wide_are_widened_tile_by_tile(
    name: str, fprop_dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_compiled, "MAX_WIDE_BYTES", 0)
    monkeypatch.setattr(torch_compiled, "TILE_WEIGHTS", 100)
    torch_compiled.compiled_widen.cache_clear()
    with torch.compiler.set_stance("force_eager"):
        model = compiled(name, fprop_dtype)
        observed = model.prefill(TOKENS, LENGTHS, ("*",))
    assert not [each for each in model.params if "/moe/" in each and not each.endswith(torch_compiled.COLUMNS)]
    eager = load(name, fprop_dtype)
    for tap, value in eager.prefill(TOKENS, LENGTHS, ("*",)).items():
        difference = np.abs(observed[tap].astype(np.float64) - value.astype(np.float64)).max()
        assert difference <= TILES[fprop_dtype] * np.abs(value.astype(np.float64)).max(), tap
    kept, stored = model.loaded_weights(), eager.loaded_weights()
    assert all(np.array_equal(kept[each], stored[each]) for each in stored if "/moe/" in each)


@pytest.mark.parametrize("name", ["4 groups", "16 groups, float32 scales", "plain", "dense"])
def test_one_token_is_computed_from_int8_and_goes_on_from_the_cache(name: str) -> None:
    eager = load(name)
    with torch.compiler.set_stance("force_eager"):
        model = compiled(name, "float32")
        for each in (model, eager):
            each.prefill(TOKENS[:1], LENGTHS[:1], ())
        observed = model.decode(TOKENS[:1, :1], ("*",))
    expected = eager.decode(TOKENS[:1, :1], ("*",))
    for tap, value in expected.items():
        assert np.abs(observed[tap] - value).max() <= SUMS_IN_ANOTHER_ORDER * np.abs(value).max(), tap


def test_int8_values_are_summed_exactly_before_they_are_scaled() -> None:
    random = np.random.default_rng(3)
    weight, x = random.integers(-127, 128, (24, 5), np.int8), random.integers(-9, 10, 24)
    scales = np.array([[1.0], [0.5], [0.25]]) * np.ones(5)
    exact = (x[:, None] * weight).reshape(3, 8, 5).sum(1) * scales
    tensors = (torch.tensor(each) for each in (x.astype(np.float32), weight.T, scales.astype(np.float32)))
    assert np.array_equal(torch_compiled.product_with_int8(*tensors).numpy(), exact.sum(0))


def test_int8_weights_are_kept_beside_what_they_make() -> None:
    model = compiled("4 groups", "float32")
    kept = [name for name in model.params if name.endswith(torch_compiled.COLUMNS)]
    assert len(kept) == 2 * (4 + 3) * model.config.model.num_layers
    assert not set(kept) & set(model.loaded_weights())
