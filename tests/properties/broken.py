"""The table of faults that the properties of the reference kill: for each property, implementations that break it.

A property that no broken implementation fails is vacuous: `test_kills.py` puts every row in and sees the property fail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import PartitionSpec as P

from reference import attention, config, layers, moe, partitioning, quantization
from reference.checkpoint import reading
from reference.memory import KVMemory
from reference.quantization import QuantizedWeight8bit
from tests.properties import (
    test_attention,
    test_config,
    test_layers,
    test_memory,
    test_moe,
    test_partitioning,
    test_quantization,
)

Patches = Mapping[tuple[Any, str], Any]
"""What stands in the place of which attribute."""


@dataclass(frozen=True)
class Kill:
    """A property and a fault that it must see; `traced` where JAX has to compile the broken implementation anew."""

    law: Callable[[], None]
    fault: str
    patches: Patches
    traced: bool


# Quantisation


def quantizer(
    *,
    rounding: Callable[[Any], Any] = np.rint,
    levels: int = 127,
    largest: Callable[[Any], Any] = lambda groups: np.abs(groups).max(axis=-2),
    scale_of_zeros: float = 1.0,
) -> Patches:
    """Return a quantiser that is right but for what is named."""

    def quantize(w: Any, num_groups: int = 1, scales_dtype: Any = ml_dtypes.bfloat16) -> QuantizedWeight8bit:
        *leading, k, n = w.shape
        groups = np.asarray(w, np.float64).reshape(*leading, num_groups, k // num_groups, n)
        scales = (np.broadcast_to(largest(groups), (*leading, num_groups, n)) / levels).astype(scales_dtype)
        scales = np.where(scales == 0, np.full_like(scales, scale_of_zeros), scales)
        with np.errstate(all="ignore"):
            quotients = np.nan_to_num(rounding(groups / scales[..., None, :].astype(np.float64)))
        return QuantizedWeight8bit(np.clip(quotients, -127, 127).astype(np.int8).reshape(w.shape), scales)

    return {(quantization, "quantize"): quantize}


def dequantizer(integers: Callable[[Any], Any], rows: Callable[[Any, int], Any]) -> Patches:
    def dequantize(q: QuantizedWeight8bit) -> Any:
        scales = np.take(np.asarray(q.scales), rows(np.arange(q.shape[-2]), q.scales.shape[-2]), axis=-2)
        return (integers(q.weight).astype(np.float32) * scales.astype(np.float32)).astype(scales.dtype)

    return {(quantization, "dequantize"): dequantize}


def tiled_groups(quantized: QuantizedWeight8bit, num_shards: int) -> QuantizedWeight8bit:
    repeats = math.lcm(quantized.scales.shape[-2], num_shards) // quantized.scales.shape[-2]
    return QuantizedWeight8bit(quantized.weight, jnp.concatenate([quantized.scales] * repeats, axis=-2))


def clipped_read(path: Any, stored: Any) -> Any:
    return np.maximum(READ_ARRAY(path, stored), -127)


READ_ARRAY = reading.read_array

QUANTIZATION = (
    ("test_the_error_is_at_most_half_a_scale", "quotients truncated", quantizer(rounding=np.trunc)),
    (
        "test_a_group_of_denormals_or_zeros_stays_finite_and_keeps_its_error", "a group of zeros has scale 0",
        quantizer(scale_of_zeros=0.0),
    ),
    ("test_quantising_what_was_quantised_changes_nothing", "scale is max / 128", quantizer(levels=128)),
    (
        "test_the_opposite_weight_has_the_opposite_integers_and_the_same_scales", "quotients rounded down",
        quantizer(rounding=np.floor),
    ),
    (
        "test_output_channels_do_not_know_of_each_other", "each channel takes its neighbour's scale",
        quantizer(largest=lambda groups: np.roll(np.abs(groups).max(axis=-2), 1, axis=-1)),
    ),
    (
        "test_groups_are_quantised_apart", "one scale for all groups",
        quantizer(largest=lambda groups: np.abs(groups).max(axis=(-3, -2), keepdims=True)[..., 0, :]),
    ),
    (
        "test_dequantising_any_int8_rounds_the_product_to_the_dtype_of_the_scales", "groups interleaved",
        dequantizer(lambda weight: weight, lambda row, num_groups: row % num_groups),
    ),
    (
        "test_dequantising_any_int8_rounds_the_product_to_the_dtype_of_the_scales", "first scales for every group",
        dequantizer(lambda weight: weight, lambda row, _: row * 0),
    ),
    (
        "test_dequantising_any_int8_rounds_the_product_to_the_dtype_of_the_scales", "int8 read as uint8",
        dequantizer(lambda weight: weight.view(np.uint8), lambda row, num_groups: row * num_groups // len(row)),
    ),
    (
        "test_finer_groups_for_the_shards_hold_the_same_weight", "groups tiled, not repeated",
        {(quantization, "split_groups"): tiled_groups},
    ),
    (
        "test_every_int8_comes_back_from_a_file", "-128 clipped to -127",
        {(reading, "read_array"): clipped_read},
    ),
)  # fmt: skip


# Configuration and partition rules

CONFIG = (
    (
        "test_ffn_size_is_two_thirds_of_the_widened_size_up_to_the_next_multiple_of_8", "not rounded up",
        {(config, "ffn_size"): lambda d, factor: int(factor * d) * 2 // 3 // 8 * 8},
    ),
    (
        "test_a_wider_model_has_no_narrower_experts", "the remainder added",
        {(config, "ffn_size"): lambda d, factor: int(factor * d) * 2 // 3 + int(factor * d) * 2 // 3 % 8},
    ),
    (
        "test_the_reference_and_the_harness_agree_on_ffn_size", "rounded up to a multiple of 16",
        {(config, "ffn_size"): lambda d, factor: -(-(int(factor * d) * 2 // 3) // 16) * 16},
    ),
)  # fmt: skip


def unanchored(patterns: Any, components: Any) -> bool:
    windows = [components[i : i + len(patterns)] for i in range(len(components) - len(patterns) + 1)]
    return bool(patterns) and any(all(map(re.match, patterns, window)) for window in windows)


def with_gaps(patterns: Any, components: Any) -> bool:
    rest = iter(components)
    return bool(patterns) and all(any(re.fullmatch(pattern, c) for c in rest) for pattern in patterns)


def at_the_end(patterns: Any, components: Any) -> bool:
    return bool(patterns) and MATCH(patterns, components[-len(patterns) :])


def rules_with(
    *,
    stacked: Callable[[list[str]], bool] = lambda components: "layer_stack" in components,
    key_of: Callable[[Any], Any] = lambda entry: getattr(entry, "key", None),
    order: int = 1,
) -> Patches:
    """Return an `apply_rules` that is right but for what is named."""

    def apply_rules(rules: Any) -> Any:
        def replacement_of(path: Any, _: Any) -> Any:
            keys = [str(key) for entry in path if (key := key_of(entry)) is not None]
            components = [component for key in keys for component in key.split("/")]
            spec = next((spec for patterns, spec in rules[::order] if MATCH(patterns, components)), None)
            return P(None, *spec) if isinstance(spec, P) and stacked(components) else spec

        return replacement_of

    return {(partitioning, "apply_rules"): apply_rules}


MATCH = partitioning.match
COLUMN_PARALLEL = tuple(
    (patterns, P("data", "model") if spec == P("model", "data") else spec)
    for patterns, spec in partitioning.TRANSFORMER_PARTITION_RULES
)

PARTITIONING = (
    (
        "test_exactly_one_published_rule_matches_every_parameter", "no $ appended",
        {(partitioning, "match"): unanchored},
    ),
    (
        "test_every_spec_is_legal_for_its_shape_on_every_mesh", "an axis that does not divide is kept",
        {(partitioning, "fitting"): lambda spec, _shape, _mesh: spec},
    ),
    (
        "test_a_row_parallel_weight_comes_back_from_its_shards", "linear_1 and linear column-parallel",
        {(partitioning, "TRANSFORMER_PARTITION_RULES"): COLUMN_PARALLEL},
    ),
    (
        "test_plain_patterns_match_where_they_occur_in_a_row", "a window may have gaps",
        {(partitioning, "match"): with_gaps},
    ),
    (
        "test_a_window_matches_whatever_surrounds_it", "only the end of a path matches",
        {(partitioning, "match"): at_the_end},
    ),
    ("test_a_pattern_matches_the_whole_of_a_component", "no $ appended", {(partitioning, "match"): unanchored}),
    (
        "test_only_a_component_named_layer_stack_prepends_an_axis", "layer_stack_1 counts too",
        rules_with(stacked=lambda components: any(c.startswith("layer_stack") for c in components)),
    ),
    (
        "test_what_no_rule_matches_is_none_and_only_dict_keys_count", "sequence indices count",
        rules_with(key_of=lambda entry: getattr(entry, "key", getattr(entry, "idx", None))),
    ),
    (
        "test_what_no_rule_matches_is_none_and_only_dict_keys_count", "attribute names count",
        rules_with(key_of=lambda entry: getattr(entry, "key", getattr(entry, "name", None))),
    ),
    ("test_the_first_rule_that_matches_wins", "the last rule wins", rules_with(order=-1)),
)  # fmt: skip


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


def router(changed: Callable[[Any, Any], tuple[Any, Any]]) -> Patches:
    def chosen(self: Any, x: Any) -> Any:
        return changed(*jax.lax.top_k(self.compute_routing_prob(x), self.num_selected_experts))

    return {(moe.Router, "__call__"): chosen}


def highest_of_ties(self: Any, x: Any) -> Any:
    probabilities = self.compute_routing_prob(x)
    gates, experts = jax.lax.top_k(probabilities[..., ::-1], self.num_selected_experts)
    return gates, probabilities.shape[-1] - 1 - experts


def capped_router_logits(equation: str, x: Any, y: Any) -> Any:
    return 30 * jnp.tanh(layers.contract(equation, x, y) / 30)


def with_capacity(x: Any, experts: Any, weights: Any) -> Any:
    values = COMPUTE_EXPERTS(x, experts, weights)
    chosen = experts.reshape(-1)
    rank = jnp.cumsum(jax.nn.one_hot(chosen, weights.linear.shape[0]), axis=0)[jnp.arange(len(chosen)), chosen]
    kept = (rank <= 2).reshape(experts.shape)[..., None]
    return {**values, "expert_output": jnp.where(kept, values["expert_output"], 0)}


COMPUTE_EXPERTS = moe.compute_experts
SHIFTED = router(lambda gates, experts: (gates, (experts + 1) % test_moe.E))

MOE = (
    (
        "test_probabilities_are_a_distribution_over_all_experts", "sigmoid router",
        {(jax.nn, "softmax"): lambda logits, axis: jax.nn.sigmoid(logits + 0 * axis)},
    ),
    (
        "test_ratios_of_probabilities_are_those_of_the_exponentials_of_the_logits", "router logits capped",
        {(moe, "contract"): capped_router_logits},
    ),
    (
        "test_gates_are_the_largest_probabilities_in_descending_order", "gates renormalised",
        router(lambda gates, experts: (gates / gates.sum(-1, keepdims=True), experts)),
    ),
    (
        "test_gates_are_the_largest_probabilities_in_descending_order", "least probable first",
        router(lambda gates, experts: (gates[..., ::-1], experts[..., ::-1])),
    ),
    ("test_ties_go_to_the_lowest_expert", "ties to the highest expert", {(moe.Router, "__call__"): highest_of_ties}),
    ("test_experts_are_chosen_by_what_they_are_not_by_where_they_stand", "experts shifted by one", SHIFTED),
    ("test_the_mixture_does_not_see_the_order_of_the_experts", "experts shifted by one", SHIFTED),
    (
        "test_tokens_are_mixed_each_on_its_own", "tokens over an expert's capacity dropped",
        {(moe, "compute_experts"): with_capacity},
    ),
)  # fmt: skip

KILLS: tuple[Kill, ...] = tuple(
    Kill(getattr(module, law), fault, patches, traced)
    for module, rows, traced in (
        (test_quantization, QUANTIZATION, False),
        (test_config, CONFIG, False),
        (test_partitioning, PARTITIONING, False),
        (test_layers, LAYERS, True),
        (test_attention, ATTENTION, True),
        (test_memory, MEMORY, True),
        (test_moe, MOE, True),
    )
    for law, fault, patches in rows
)
