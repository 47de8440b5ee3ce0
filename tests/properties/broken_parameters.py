"""Broken implementations of quantisation, configuration and partition rules, by the property that must see them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jax.sharding import PartitionSpec as P

from grok_conformance.reference import config, partitioning, quantization
from grok_conformance.reference.checkpoint import arrays
from grok_conformance.reference.quantization import QuantizedWeight8bit
from tests.properties.kill import Patches

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


READ_ARRAY = arrays.read_array

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
        {(arrays, "read_array"): clipped_read},
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
