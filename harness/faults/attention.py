"""Faults of one operation of the attention block: another function, another constant, another mask."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import functions
from grok_conformance.harness.faults.fault import Change, Fault, changes_at
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.row import Scope

ROTATIONS = ("attention.query_rotated", "attention.key_rotated")

STRESS = ("stress/prefill/saturated_cap.*",)
LONG = ("long/decode/large_positions.*",)


def with_attention_multiplier(factor: Callable[[Scope], float]) -> Callable[[Scope], Scope]:
    """Return a change of the attention logits' multiplier."""

    def change(scope: Scope) -> Scope:
        model = replace(scope.config.model, attn_output_multiplier=factor(scope))
        return replace(scope, config=replace(scope.config, model=model))

    return change


def unable_to_see_itself(scope: Scope) -> Scope:
    """Hide every query's own slot, except from a query that would then see nothing."""
    positions = scope.steps[:, None] + np.arange(scope.visible.shape[1])  # [b, t]
    own = np.arange(scope.visible.shape[-1]) == positions[..., None]  # [b, t, s]
    alone = scope.visible.sum(-1, keepdims=True) <= 1
    return replace(scope, visible=scope.visible & (~own | alone))


def seeing_everything(scope: Scope) -> Scope:
    """Show every slot that the softmax runs over."""
    return replace(scope, visible=scope.visible | functions.attended_slots(scope)[:, None])


def seeing_pads(scope: Scope) -> Scope:
    """Show pad keys as if they were real."""
    real = np.full_like(scope.tokens, scope.config.pad_token + 1)
    return replace(scope, visible=visible_keys(scope.config, real, scope.steps))


def tf32_position(positions: Array) -> Array:
    """Round positions to 11 significant bits."""
    return functions.round_to_tf32(positions)


def bf16_position(positions: Array) -> Array:
    """Round positions to 8 significant bits."""
    return positions.astype(ml_dtypes.bfloat16).astype(np.float64)


ATTENTION = (
    Fault(
        id="attention_cap_missing",
        kind="operation",
        title="attention logits are not capped",
        remedy="cap the attention logits: 30·tanh(x/30), before the mask",
        explanation=(
            "Scaled attention logits are bounded by 30·tanh(x/30) before the mask; small logits hardly show it."
        ),
        provenance="vllm#13795, flashinfer#1193",
        changes=changes_at("attention.logits", function=functions.capped_by(lambda x: x)),
        shown_by=STRESS,
    ),
    Fault(
        id="attention_cap_hard",
        kind="operation",
        title="attention logits are clamped to ±30",
        remedy="cap the attention logits by 30·tanh(x/30) instead of clamping them",
        explanation="The cap is smooth: 30·tanh(x/30).",
        provenance="TevunahAi card",
        changes=changes_at("attention.logits", function=functions.capped_by(lambda x: np.clip(x, -30, 30))),
        shown_by=STRESS,
    ),
    Fault(
        id="attention_cap_50",
        kind="operation",
        title="attention logits are capped at 50",
        remedy="set the cap of the attention logits to 30",
        explanation="Grok-1 caps at 30; 50 is Gemma 2's.",
        provenance="fault catalogue",
        changes=changes_at("attention.logits", function=functions.capped_by(lambda x: 50 * np.tanh(x / 50))),
        shown_by=STRESS,
    ),
    Fault(
        id="cap_after_mask",
        kind="operation",
        title="the mask comes before the cap, so that masked keys keep a weight",
        remedy="cap the attention logits first, and mask them afterwards",
        explanation="The cap comes first: capped after the mask, -1e30 becomes -30, and the future leaks.",
        provenance="onnx#7865, flash-attention#1025",
        changes=changes_at("attention.weights", function=functions.masked_before_cap),
    ),
    Fault(
        id="attention_scale_missing",
        kind="operation",
        title="attention logits are not multiplied by attn_output_multiplier",
        remedy="multiply q·k by attn_output_multiplier before the cap",
        explanation="attn_output_multiplier scales the attention logits, its name notwithstanding.",
        provenance="vllm#13795",
        changes=changes_at("attention.logits", scope=with_attention_multiplier(lambda _: 1.0)),
    ),
    Fault(
        id="attention_scale_double",
        kind="operation",
        title="1/√h is applied besides attn_output_multiplier",
        remedy="multiply q·k by attn_output_multiplier alone: leave out the 1/√h of the attention function",
        explanation="attn_output_multiplier is the whole scale of the attention logits.",
        provenance="vllm#13795",
        changes=changes_at(
            "attention.logits",
            scope=with_attention_multiplier(
                lambda scope: scope.config.model.attn_output_multiplier / math.sqrt(scope.config.model.key_size)
            ),
        ),
    ),
    Fault(
        id="softmax_bf16",
        kind="operation",
        title="the attention softmax is computed in bf16",
        remedy="compute the attention softmax in float32, and round its result",
        explanation="The softmax runs in float32 and its result is rounded.",
        provenance="axlearn#18",
        changes=changes_at("attention.weights", function=functions.softmax_bf16),
        shown_by=STRESS,
    ),
    Fault(
        id="mask_strict",
        kind="operation",
        title="a query cannot see itself",
        remedy="let every query see its own position: mask keys after it alone",
        explanation="Key j is visible to query i when j ≤ step + i.",
        provenance="fault catalogue",
        changes=changes_at("attention.weights", scope=unable_to_see_itself),
    ),
    Fault(
        id="mask_absent",
        kind="operation",
        title="there is no causal mask",
        remedy="mask the keys after each query's position",
        explanation="Key j is visible to query i only when j ≤ step + i.",
        provenance="fault catalogue",
        changes=changes_at("attention.weights", scope=seeing_everything),
    ),
    Fault(
        id="padding_attended",
        kind="operation",
        title="pad keys of the current call are attended",
        remedy="mask the keys of pad tokens of the current call",
        explanation="Keys of the current call are visible only where the token is no pad.",
        provenance="flashinfer#3716",
        changes=changes_at("attention.weights", scope=seeing_pads),
        shown_by=("unequal/decode/pads_in_cache.*", "unequal/prefill/leading_pads.*"),
    ),
    Fault(
        id="gqa_tiled",
        kind="operation",
        title="KV heads are tiled as a whole instead of each being repeated",
        remedy="repeat each KV head for the query heads of its group, one after the other: repeat, not tile",
        explanation="Query head j uses KV head j // r; with tiled heads it uses head j mod g, for keys and values.",
        provenance="onnx#7274",
        changes={
            "attention.logits": Change(function=functions.tiled_logits),
            "attention.heads": Change(function=functions.tiled_heads),
        },
    ),
    Fault(
        id="gqa_strided",
        kind="operation",
        title="query heads are split as [r, g] instead of [g, r]",
        remedy="split the query heads as [g, r]: the place within the KV head's group comes last",
        explanation="Query head j uses KV head j // r: the heads of a group are contiguous.",
        provenance="hpcai 'update gqa impl'",
        changes=changes_at("attention.logits", function=functions.regrouped_logits),
    ),
    Fault(
        id="attention_multiplier_on_output",
        kind="operation",
        title="attn_output_multiplier multiplies the attention output too",
        remedy="leave attn_output_multiplier out of the attention's output: it multiplies q·k",
        explanation=(
            "It scales the attention logits, its name notwithstanding. A norm follows the output, so no logits show it."
        ),
        provenance="the name of the field",
        changes=changes_at("attention.output", function=functions.output_scaled),
    ),
)

ROPE = (
    Fault(
        id="rope_interleaved",
        kind="operation",
        title="RoPE rotates even and odd pairs",
        remedy="rotate the two halves of a head against each other, not even against odd places",
        explanation="The rotation pairs element j with j + h/2 (half-split, 'NEOX').",
        provenance="TinyLlama#24",
        changes=changes_at(*ROTATIONS, function=functions.rotated(interleaved=True)),
    ),
    Fault(
        id="rope_base_wrong",
        kind="operation",
        title="RoPE has base 500000",
        remedy="set the base of RoPE to 10000",
        explanation="The base is 10000.",
        provenance="keyfan 'fix rope base'",
        changes=changes_at(*ROTATIONS, function=functions.rotated(base=500_000.0)),
        shown_by=("unequal/prefill/padded_batch.*", "long/decode/large_positions.*"),
    ),
    Fault(
        id="rope_sign",
        kind="operation",
        title="RoPE rotates the wrong way",
        remedy="rotate the other way: (x1·cos − x2·sin, x2·cos + x1·sin)",
        explanation="The rotated vector is x·cos + rotate_half(x)·sin, rotate_half(x) = concat(-x2, x1).",
        provenance="fault catalogue",
        changes=changes_at(*ROTATIONS, function=functions.rotated(positions=np.negative)),
    ),
    Fault(
        id="rope_key_only",
        kind="operation",
        title="the queries are not rotated",
        remedy="rotate the queries too",
        explanation="RoPE turns queries and keys.",
        provenance="ColossalAI#6429",
        changes=changes_at("attention.query_rotated", function=functions.unrotated),
    ),
    Fault(
        id="rope_on_value",
        kind="operation",
        title="the values are rotated",
        remedy="leave the values unrotated",
        explanation="RoPE turns queries and keys, never values.",
        provenance="ColossalAI#6429",
        changes=changes_at("kv.values", function=functions.rotated_values),
    ),
    Fault(
        id="rope_position_bf16",
        kind="operation",
        title="positions are rounded to bf16",
        remedy="keep positions in float32 or as integers until the angle is made",
        explanation="Positions and phases are float32; bf16 holds no odd integer above 256.",
        provenance="UNI-D2#6",
        changes=changes_at(*ROTATIONS, function=functions.rotated(positions=bf16_position)),
        shown_by=LONG,
        trigger=("steps in the cache", 257),
    ),
    Fault(
        id="rope_position_tf32",
        kind="operation",
        title="positions are rounded to TF32",
        remedy="make the angles without TF32: multiply position by frequency elementwise in float32",
        explanation="Positions and phases are float32; TF32 holds no odd integer above 2048.",
        provenance="transformers#48428",
        changes=changes_at(*ROTATIONS, function=functions.rotated(positions=tf32_position)),
        shown_by=LONG,
        trigger=("steps in the cache", 2049),
    ),
    Fault(
        id="rope_cos_sin_bf16",
        kind="operation",
        title="cos and sin are rounded to bf16",
        remedy="keep the tables of cos and sin in float32",
        explanation="Phases, cos, sin and the products are float32; only the result is rounded.",
        provenance="transformers#25681",
        changes=changes_at(*ROTATIONS, function=functions.rotated(phases=lambda x: round_to(x, "bfloat16"))),
    ),
)

FAULTS = (*ATTENTION, *ROPE)
