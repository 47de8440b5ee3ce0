"""Broken implementations of what the model computes, from layers to experts, by the property that must see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from grok_conformance.reference import attention, experts, layers, moe, router
from grok_conformance.reference.memory import KVMemory
from tests.properties.kill import Patches
from tests.reference import test_moe

# Layers


def rotation(
    *,
    shift: int = 0,
    positions_dtype: Any = jnp.float32,
    widen: Callable[[Any], Any] = lambda x: jnp.concatenate((x, x), -1),
) -> Patches:
    """Return a rotation that is right but for what is named."""

    class RotaryEmbedding(layers.RotaryEmbedding):
        def __call__(self, x: Any, positions: Any) -> Any:
            places = (positions + shift).astype(positions_dtype).astype(jnp.float32)
            phase = widen(places[:, :, None, None] * self.inverse_frequencies)
            return x * jnp.cos(phase) + layers.rotate_half(x) * jnp.sin(phase)

    return {(layers, "RotaryEmbedding"): RotaryEmbedding}


def norm(normed: Callable[[Any, Any], Any]) -> Patches:
    class RMSNorm(hk.Module):
        def __call__(self, x: Any) -> Any:
            return normed(x, hk.get_parameter("scale", x.shape[-1:], jnp.float32, init=layers.ZEROS))

    return {(layers, "RMSNorm"): RMSNorm}


def rms(x: Any, eps: float = 1e-5, reduce: Callable[..., Any] = jnp.mean) -> Any:
    return x * jax.lax.rsqrt(reduce(x * x, axis=-1, keepdims=True) + eps)


LAYERS = (
    (
        "test_a_rotation_keeps_the_length_of_every_pair", "frequencies of interleaved pairs",
        rotation(widen=lambda phase: jnp.repeat(phase, 2, axis=-1)),
    ),
    (
        "test_scores_of_rotated_heads_depend_on_the_distance_alone", "positions in bfloat16",
        rotation(positions_dtype=jnp.bfloat16),
    ),
    ("test_rotations_compose_by_adding_their_positions", "positions count from 1", rotation(shift=1)),
    ("test_position_0_rotates_nothing", "positions count from 1", rotation(shift=1)),
    (
        "test_rms_norm_does_not_see_the_size_of_a_row_beyond_eps", "eps 1e-2",
        norm(lambda x, scale: rms(x, eps=1e-2) * scale),
    ),
    (
        "test_the_mean_square_of_a_normed_row_is_1_up_to_eps", "sum for mean",
        norm(lambda x, scale: rms(x, reduce=jnp.sum) * scale),
    ),
    (
        "test_the_mean_square_of_a_normed_row_is_1_up_to_eps", "eps 1e-6",
        norm(lambda x, scale: rms(x, eps=1e-6) * scale),
    ),
    (
        "test_signs_pass_through_rms_norm", "mean subtracted",
        norm(lambda x, scale: rms(x - jnp.mean(x, axis=-1, keepdims=True)) * scale),
    ),
    ("test_a_gain_of_2_doubles_a_normed_row", "1 + scale", norm(lambda x, scale: rms(x) * (1 + scale))),
)  # fmt: skip


# Attention and its memory


def cap(capped: Callable[[Any], Any]) -> Patches:
    def logits(self: Any, query: Any, key: Any) -> Any:
        return capped(layers.contract("btgrh,bsgh->bgrts", query, key) * self.config.attn_output_multiplier)

    return {(attention.MultiHeadAttention, "_logits"): logits}


def visibility(seen: Callable[[Any, Any, Any], Any]) -> Patches:
    """Return a `visible_keys` with another mask: `seen(visible, mask, memory)` is [b, 1, 1, t, s]."""

    def visible_keys(mask: Any, memory: Any, positions: Any) -> Any:
        visible, present = VISIBLE_KEYS(mask, memory, positions)
        return seen(visible, mask, memory), None if memory is not None else present

    return {(attention, "visible_keys"): visible_keys}


def memory_with(step_of: Callable[[Any], Any], grown: Callable[[Any, int], Any]) -> Patches:
    """Return an `update_memory` that writes at `step_of(step)` and leaves the step `grown(step, t)`."""

    def update_memory(memory: KVMemory, key: Any, value: Any) -> KVMemory:
        updated = UPDATE_MEMORY(memory._replace(step=step_of(memory.step)), key, value)
        return updated._replace(step=grown(memory.step, key.shape[1]))

    return {(attention, "update_memory"): update_memory}


def over_queries(logits: Any, *, where: Any, axis: int) -> Any:
    return SOFTMAX(logits, where=where, axis=axis - 1)


VISIBLE_KEYS, UPDATE_MEMORY, SOFTMAX = attention.visible_keys, attention.update_memory, jax.nn.softmax

ATTENTION = (
    ("test_attention_logits_stay_within_the_cap", "no cap", cap(lambda logits: logits)),
    ("test_attention_logits_stay_within_the_cap", "cap 50", cap(lambda logits: 50 * jnp.tanh(logits / 50))),
    (
        "test_the_opposite_query_has_the_opposite_logits", "sigmoid for tanh",
        cap(lambda logits: 30 * jax.nn.sigmoid(logits / 30)),
    ),
    (
        "test_weights_are_a_distribution_over_the_visible_keys", "pads attended",
        visibility(lambda visible, _mask, _memory: jnp.tril(jnp.ones_like(visible))),
    ),
    (
        "test_a_visible_key_with_a_larger_logit_has_no_smaller_weight", "softmax over queries",
        {(jax.nn, "softmax"): over_queries},
    ),
    (
        "test_a_query_that_sees_no_key_averages_over_all_of_them", "masked with -inf",
        {(attention, "MASKED"): -jnp.inf},
    ),
    (
        "test_a_later_token_changes_no_earlier_output", "no causal mask",
        visibility(lambda visible, mask, _: jnp.broadcast_to(mask[:, None, None, None, :], visible.shape)),
    ),
)  # fmt: skip

MEMORY = (
    (
        "test_chunks_and_steps_give_what_one_prefill_gives", "the step counts calls",
        memory_with(lambda step: step, lambda step, _: step + 1),
    ),
    (
        "test_a_cache_longer_than_the_prompt_changes_nothing", "unused slots attended",
        visibility(lambda visible, _, memory: visible if memory is None else jnp.ones_like(visible)),
    ),
    (
        "test_a_row_does_not_see_the_tokens_and_the_step_of_another", "all rows written at the last row's step",
        memory_with(lambda step: jnp.broadcast_to(step[-1], step.shape), lambda step, t: step + t),
    ),
    (
        "test_earlier_slots_stay_bit_for_bit_and_steps_grow_by_the_tokens", "written one slot too early",
        memory_with(lambda step: jnp.maximum(step - 1, 0), lambda step, t: step + t),
    ),
)  # fmt: skip


# Router and experts


def choice(choose: Callable[[Any, int], tuple[Any, Any]]) -> Patches:
    return {(router, "choose_experts"): choose, (moe, "choose_experts"): choose}


def changed(change: Callable[[Any, Any], tuple[Any, Any]]) -> Patches:
    return choice(lambda probabilities, k: change(*jax.lax.top_k(probabilities, k)))


def highest_of_ties(probabilities: Any, k: int) -> Any:
    gates, chosen = jax.lax.top_k(probabilities[..., ::-1], k)
    return gates, probabilities.shape[-1] - 1 - chosen


def capped_router_logits(equation: str, x: Any, y: Any) -> Any:
    return 30 * jnp.tanh(layers.contract(equation, x, y) / 30)


def with_capacity(x: Any, index: Any, weights: Any, placement: Any) -> Any:
    values = COMPUTE_EXPERTS(x, index, weights, placement)
    chosen = index.reshape(-1)
    rank = jnp.cumsum(jax.nn.one_hot(chosen, weights.linear.shape[0]), axis=0)[jnp.arange(len(chosen)), chosen]
    kept = (rank <= 2).reshape(index.shape)[..., None]
    return {**values, "expert_output": jnp.where(kept, values["expert_output"], 0)}


COMPUTE_EXPERTS = experts.compute_experts
SHIFTED = changed(lambda gates, experts: (gates, (experts + 1) % test_moe.E))

MOE = (
    (
        "test_probabilities_are_a_distribution_over_all_experts", "sigmoid router",
        {(jax.nn, "softmax"): lambda logits, axis: jax.nn.sigmoid(logits + 0 * axis)},
    ),
    (
        "test_ratios_of_probabilities_are_those_of_the_exponentials_of_the_logits", "router logits capped",
        {(router, "contract"): capped_router_logits},
    ),
    (
        "test_gates_are_the_largest_probabilities_in_descending_order", "gates renormalised",
        changed(lambda gates, experts: (gates / gates.sum(-1, keepdims=True), experts)),
    ),
    (
        "test_gates_are_the_largest_probabilities_in_descending_order", "least probable first",
        changed(lambda gates, experts: (gates[..., ::-1], experts[..., ::-1])),
    ),
    ("test_ties_go_to_the_lowest_expert", "ties to the highest expert", choice(highest_of_ties)),
    ("test_experts_are_chosen_by_what_they_are_not_by_where_they_stand", "experts shifted by one", SHIFTED),
    ("test_the_mixture_does_not_see_the_order_of_the_experts", "experts shifted by one", SHIFTED),
    (
        "test_tokens_are_mixed_each_on_its_own", "tokens over an expert's capacity dropped",
        {(moe, "compute_experts"): with_capacity},
    ),
)  # fmt: skip
