"""Faults of what lives between calls: positions, cache steps, cached keys and values, slots."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.faults import functions
from grok_conformance.harness.faults.fault import Change, Fault, changes_at
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.row import Scope

ROTATIONS = ("attention.query_rotated", "attention.key_rotated")
DECODE = ("unequal/decode/unequal_lengths.*",)


def at_position_zero(scope: Scope) -> Scope:
    """Count the positions of every call from 0."""
    return replace(scope, steps=np.zeros_like(scope.steps))


def one_ahead(scope: Scope) -> Scope:
    """Move rows that are past their first call one position on, if the cache has room; the slot between stays."""
    room = scope.steps + scope.tokens.shape[1] < scope.config.sequence_len
    steps = scope.steps + ((scope.steps > 0) & room)
    return replace(scope, steps=steps, visible=visible_keys(scope.config, scope.tokens, steps))


def at_longest_row(scope: Scope) -> Scope:
    """Give every row the step of the longest."""
    return replace(scope, steps=np.full_like(scope.steps, scope.steps.max()))


FAULTS = (
    Fault(
        id="decode_position_zero",
        kind="state",
        title="every call starts at position 0",
        remedy="begin every call at the row's step: positions are step + 0, 1, …",
        explanation="RoPE's positions are arange(t) + step, the row's step in the cache.",
        provenance="mlx-vlm#1983",
        changes=changes_at(*ROTATIONS, scope=at_position_zero),
        shown_by=DECODE,
        trigger=("steps in the cache", 1),
    ),
    Fault(
        id="decode_position_plus_one",
        kind="state",
        title="after the first call the step is one too high, and leaves a hole in the cache",
        remedy="let a row's step grow by the number of its real tokens, no more",
        explanation="After a prefill of L real tokens the step is L: the next token goes to slot and position L.",
        provenance="onnxruntime-genai#2354, vllm-mlx#311",
        changes=changes_at(*ROTATIONS, "kv.keys", "kv.values", "attention.weights", scope=one_ahead),
        shown_by=DECODE,
        trigger=("steps in the cache", 1),
    ),
    Fault(
        id="step_bumped_by_layer_0",
        kind="state",
        title="layers after the first are one position ahead",
        remedy="advance the step once after all layers, not in the first one",
        explanation="The step belongs to the call: it moves on once all layers have used it.",
        provenance="flash-linear-attention#766",
        changes={name: Change(scope=one_ahead, first_layer=1) for name in ROTATIONS},
        shown_by=DECODE,
        trigger=("layers", 2),
    ),
    Fault(
        id="left_pad_positions_shared",
        kind="state",
        title="short rows use the longest row's positions",
        remedy="count each row's positions from its own length, not from the longest row's",
        explanation="Every row of a batch has its own step.",
        provenance="unsloth#3699",
        changes=changes_at(*ROTATIONS, scope=at_longest_row),
        shown_by=DECODE,
        trigger=("rows of a batch", 2),
    ),
    Fault(
        id="cache_unrotated_keys",
        kind="state",
        title="the cache holds keys before RoPE, rotated at use",
        remedy="store the keys after RoPE",
        explanation="Keys are cached after RoPE.",
        provenance="fault catalogue",
        changes={
            "kv.keys": Change(inputs=("previous:kv.keys", "attention.key")),
            "attention.logits": Change(function=functions.logits_of_unrotated),
        },
    ),
    Fault(
        id="cache_fp8_scale_dropped",
        kind="state",
        title="an fp8 cache is read without its scale",
        remedy="multiply what is read from an fp8 cache by its scale",
        explanation=(
            "What is read from the cache is what was written, but for the rounding of a declared narrower cache."
        ),
        provenance="TensorRT-LLM#16916",
        changes=changes_at("kv.keys", "kv.values", function=functions.fp8_without_scale),
    ),
    Fault(
        id="prefill_bucket_leak",
        kind="state",
        title="the last real position's logits come from the end of the padded bucket",
        remedy="take each row's logits at its own last real token, not at the end of the padded bucket",
        explanation="A prompt padded to a bucket gives the logits of its last real position.",
        provenance="tpu-inference#3466",
        changes=changes_at("logits", function=functions.logits_of_bucket_end),
    ),
)
