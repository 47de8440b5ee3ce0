"""The configuration: sizes, defaults and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from grok_conformance.reference import GROK_1, PRESETS, LanguageModelConfig, ffn_size


@pytest.mark.parametrize(
    ("emb_size", "widening_factor", "expected"), [(6144, 8, 32768), (1024, 8, 5464), (64, 8, 344), (96, 4, 256)]
)
def test_ffn_size_is_two_thirds_of_the_widened_width_in_multiples_of_8(
    emb_size: int, widening_factor: float, expected: int
) -> None:
    assert ffn_size(emb_size, widening_factor) == expected


def test_equal_configurations_are_equal_keys_however_their_dtype_is_named() -> None:
    named, typed = replace(GROK_1, fprop_dtype="bfloat16"), replace(GROK_1, fprop_dtype=jnp.bfloat16)
    assert named == typed
    assert hash(named) == hash(typed)


@pytest.mark.parametrize("name", PRESETS)
def test_no_two_axes_of_a_small_tensor_have_the_same_size(name: str) -> None:
    config = PRESETS[name].model
    assert config.num_q_heads * config.key_size % 8 == 0
    assert config.ffn_size % 8 == 0
    if name == "small":
        q_size, kv_size = config.num_q_heads * config.key_size, config.num_kv_heads * config.key_size
        assert len({config.emb_size, config.ffn_size, q_size, kv_size, config.num_experts}) == 5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_q_heads": 48, "num_kv_heads": 7}, "num_q_heads 48 is no multiple of num_kv_heads 7"),
        ({"key_size": 127}, "key_size 127 is odd"),
        ({"num_selected_experts": 9}, r"num_selected_experts 9 is not in 1\.\.num_experts 8"),
        ({"num_selected_experts": 0}, r"num_selected_experts 0 is not in 1\.\.num_experts 8"),
    ],
)
def test_sizes_that_contradict_each_other_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GROK_1.model, **changes)


def test_a_compute_dtype_without_a_specification_is_refused() -> None:
    with pytest.raises(ValueError, match="fprop_dtype float16 is not supported: use bfloat16 or float32"):
        replace(GROK_1, fprop_dtype=jnp.float16)


def test_memory_sharding_is_the_published_one_and_a_list_of_axes_becomes_a_tuple() -> None:
    axes: Any = ["replica", "data"]
    config: LanguageModelConfig = replace(GROK_1, model=replace(GROK_1.model, data_axis=axes))
    layers = config.model.get_memory_sharding().layers
    assert len(layers) == 64
    assert layers[0].k == layers[0].v == P(("replica", "data"), "model")
    assert layers[0].step == P(("replica", "data"))
