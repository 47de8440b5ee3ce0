"""The reference gives what the published code gave."""

from __future__ import annotations

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance import reference
from tests.reference.published import PUBLISHED, config, memory_after, relative_rms, run, tensors, tree

PARAMS = tree(tensors("weights"))


def test_float32_prefill_agrees_with_the_published_code_at_every_tap() -> None:
    expected = tensors("prefill_float32")
    _, taps = reference.apply_with_taps(config("float32"), PARAMS, expected["tokens"])
    errors = {name: relative_rms(taps[name], expected[name]) for name in expected if name in taps}
    assert len(errors) == 35
    assert max(errors.values()) <= 1e-6


def test_float32_decode_agrees_with_the_published_code_at_every_step_and_in_the_final_cache() -> None:
    expected, length = tensors("decode_float32"), int(tensors("decode_float32")["length"][0])
    memory = reference.init_memory(config("float32"), 1, 48)
    output = run(config("float32"), PARAMS, expected["prompt"], memory=memory)
    assert relative_rms(output.logits[:, length - 1 : length], expected["prefill.logits"]) <= 1e-6
    step = jnp.array([length], jnp.int32)
    memory = reference.Memory([layer._replace(step=step) for layer in memory_after(output).layers])
    for i in range(5):
        output = run(config("float32"), PARAMS, expected[f"step{i}.token"], memory=memory)
        assert relative_rms(output.logits, expected[f"step{i}.logits"]) <= 1e-6
        memory = memory_after(output)
    for i, layer in enumerate(memory.layers):
        keys, values, steps = layer.arrays()
        assert relative_rms(keys[:, : length + 5], expected[f"layers.{i:02d}.kv.keys"][:, : length + 5]) <= 1e-6
        assert relative_rms(values[:, : length + 5], expected[f"layers.{i:02d}.kv.values"][:, : length + 5]) <= 1e-6
        assert int(steps[0]) == int(expected[f"layers.{i:02d}.kv.step"][0])


def test_bfloat16_logits_agree_with_the_published_program_to_the_rounding_that_it_drops() -> None:
    expected = tensors("prefill_bfloat16")
    output = run(config("bfloat16"), PARAMS, expected["tokens"])
    assert 0.001 < relative_rms(output.logits, expected["logits"]) < 0.012


def test_partition_specs_equal_the_published_ones() -> None:
    specs = reference.partition_specs(reference.GROK_1)
    rows = json.loads((PUBLISHED / "partition_specs.json").read_text())
    assert len(rows) == 62
    for row in rows:
        spec = specs[row["path"]]
        assert spec is not None
        assert [list(axes) if isinstance(axes, tuple) else axes for axes in spec] == row["spec"], row["path"]


def test_grok_1_has_the_published_number_of_leaves_weights_and_scales() -> None:
    from grok_conformance.reference.parameters import parameter_shapes  # noqa: PLC0415 - shown beside what it is asked

    leaves = [leaf for module in parameter_shapes(reference.GROK_1).values() for leaf in module.values()]
    assert len(leaves) == 770
    quantised = [leaf for leaf in leaves if isinstance(leaf, reference.QuantizedWeight8bit)]
    assert len(quantised) == 448
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 315_684_820_992
    assert sum(math.prod(leaf.scales.shape) for leaf in quantised) == 62_390_272


@pytest.mark.parametrize(("dtype", "allowed"), [("bfloat16", 0.0), ("float32", 1e-6)])
@pytest.mark.parametrize("taps", [("logits",), ("layers.*.moe.expert_hidden",), ("layers.00.attention.*", "embedding")])
def test_tapping_changes_no_more_than_float32_rounding(taps: tuple[str, ...], dtype: str, allowed: float) -> None:
    tokens = tensors("prefill_float32")["tokens"]
    untapped = run(config(dtype), PARAMS, tokens)
    tapped, _ = reference.apply_with_taps(config(dtype), PARAMS, tokens, taps=taps)
    assert isinstance(tapped, reference.LanguageModelOutput)
    assert relative_rms(tapped.logits, untapped.logits) <= allowed


def test_unpinned_rounding_is_another_honest_program() -> None:
    tokens = tensors("prefill_bfloat16")["tokens"]
    pinned, unpinned = (
        np.asarray(run(config("bfloat16"), PARAMS, tokens, pin_rounding=pin).logits, np.float64)
        for pin in (True, False)
    )
    assert relative_rms(unpinned, pinned) < 0.015
