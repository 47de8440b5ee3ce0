"""Laws of the KV memory: any way of cutting a sequence into calls gives the same; rows are apart (SPEC §4.4, §5)."""

from __future__ import annotations

import functools
from typing import Any

import hypothesis.extra.numpy as arrays
import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance import reference
from grok_conformance.reference.parameters import parameter_shapes
from grok_conformance.reference.quantization import is_quantized

B, T, SLOTS = 2, 6, 8
CONFIG = reference.LanguageModelConfig(
    vocab_size=12,
    pad_token=0,
    eos_token=2,
    sequence_len=SLOTS,
    fprop_dtype="float32",
    model=reference.TransformerConfig(
        emb_size=8, key_size=4, num_q_heads=4, num_kv_heads=2, num_layers=1, widening_factor=2,
        num_experts=3, num_selected_experts=2,
    ),
)  # fmt: skip
CUTS = st.sampled_from([(1, 1, 1, 1, 1, 1), (1, 3, 2), (2, 1, 3), (2, 2, 2), (3, 3), (3, 1, 1, 1), (3, 2, 1)])
TOKENS = arrays.arrays(np.int32, (B, T), elements=st.integers(1, 11))


@functools.cache
def params() -> Any:
    """Return plain weights with strong attention and decided routing."""
    random = np.random.default_rng(0)

    def leaf(path: Any, shapes: Any) -> Any:
        if "norm" in str(path):
            return np.ones(shapes.shape, np.float32)
        return random.standard_normal(shapes.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(leaf, parameter_shapes(CONFIG), is_leaf=is_quantized)


def call(tokens: Any, memory: Any) -> tuple[Any, Any]:
    output = reference.apply(CONFIG, params(), tokens, memory=memory)
    assert isinstance(output, reference.LanguageModelOutput)
    return np.asarray(output.logits), output.model_state


def in_calls(tokens: Any, cuts: tuple[int, ...]) -> tuple[Any, Any]:
    """Return the logits of all tokens and the caches, for calls of so many tokens each."""
    memory, logits = reference.init_memory(CONFIG, B, SLOTS), []
    for chunk in np.split(tokens, np.cumsum(cuts)[:-1], axis=1):
        found, memory = call(chunk, memory)
        logits.append(found)
    return np.concatenate(logits, axis=1), memory


@given(TOKENS, CUTS)
def test_chunks_and_steps_give_what_one_prefill_gives(tokens: Any, cuts: tuple[int, ...]) -> None:
    (expected, memory), (found, in_parts) = in_calls(tokens, (T,)), in_calls(tokens, cuts)
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)
    for one, other in zip(jax.tree.leaves(memory), jax.tree.leaves(in_parts), strict=True):
        assert np.allclose(one, other, rtol=1e-4, atol=1e-4)


@given(TOKENS)
def test_a_cache_longer_than_the_prompt_changes_nothing(tokens: Any) -> None:
    without = reference.apply(CONFIG, params(), tokens)
    assert isinstance(without, reference.LanguageModelOutput)
    assert np.allclose(in_calls(tokens, (T,))[0], np.asarray(without.logits), rtol=1e-4, atol=1e-4)


@given(TOKENS, TOKENS, arrays.arrays(np.int32, (B,), elements=st.integers(1, 5)), st.integers(1, 5))
def test_a_row_does_not_see_the_tokens_and_the_step_of_another(tokens: Any, other: Any, steps: Any, step: int) -> None:
    def second_call(tokens: Any, steps: Any) -> tuple[Any, Any]:
        _, memory = call(tokens, reference.init_memory(CONFIG, B, SLOTS))
        layers = [layer._replace(step=np.asarray(steps, np.int32)) for layer in memory.layers]
        logits, memory = call(tokens[:, :3], reference.Memory(layers))
        return logits[0], [np.asarray(leaf)[0] for leaf in jax.tree.leaves(memory)]

    logits, caches = second_call(tokens, steps)
    changed, changed_caches = second_call(np.stack([tokens[0], other[1]]), [steps[0], step])
    assert np.allclose(logits, changed, rtol=1e-5, atol=1e-5)
    assert all(np.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(caches, changed_caches, strict=True))


@given(TOKENS, arrays.arrays(np.int32, (B,), elements=st.integers(0, 5)))
def test_earlier_slots_stay_bit_for_bit_and_steps_grow_by_the_tokens(tokens: Any, steps: Any) -> None:
    _, memory = call(tokens, reference.init_memory(CONFIG, B, SLOTS))
    layers = [layer._replace(step=steps) for layer in memory.layers]
    _, after = call(tokens[:, :3], reference.Memory(layers))
    for old, new in zip(layers, after.layers, strict=True):
        assert np.array_equal(new.step, steps + 3)
        for row, step in enumerate(steps):
            written = np.arange(SLOTS)[:, None, None]
            kept = (written < step) | (written >= step + 3)
            assert all(
                np.array_equal(np.where(kept, np.asarray(a)[row], 0), np.where(kept, np.asarray(b)[row], 0))
                for a, b in ((old.k, new.k), (old.v, new.v))
            )
