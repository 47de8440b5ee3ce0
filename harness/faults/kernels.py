"""Faults of kernels: a right formula split, merged, laid out, indexed or multiplied wrongly, as reports tell of them.

They are named like the faults of the catalogue; several show only from a size on, which their `trigger` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.grok_1 import EPSILON, LOGIT_CAP
from grok_conformance.harness.faults.fault import Change, Fault, changes_at
from grok_conformance.harness.faults.functions import capped_by
from grok_conformance.harness.faults.narrow_arithmetic import expert_in_of_gated
from grok_conformance.harness.faults.operation import NORMS
from grok_conformance.harness.faults.weights import EXPERTS, QUANTISED, scales_read
from grok_conformance.harness.graph.operations import attention, experts, norm
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Function, Scope
from grok_conformance.harness.graph.sharing import evenly, parts_between

Parts = Callable[[int], list[slice]]
"""Gives the parts of so many slots."""


# Attention


def in_blocks(size: int) -> Parts:
    """Return parts of so many slots each, the last one shorter."""
    return lambda num_slots: parts_between([*range(0, num_slots, size), num_slots])


def in_splits(count: int) -> Parts:
    """Return so many parts of nearly equal size."""
    return lambda num_slots: evenly(num_slots, count)


def merged_by(parts: Parts, factor: float) -> Function:
    """Return a softmax whose parts of the slots are merged by their log-sum-exp times a factor, that of the bases."""

    def weights(logits: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = attention.attention_weights(logits, scope=scope, plan=plan)
        at = parts(logits.shape[-1])
        sums = np.stack([honest.value[..., part].sum(-1) for part in at], -1)
        shares = sums**factor / (sums**factor).sum(-1, keepdims=True)
        alone = (sums > 0).sum(-1, keepdims=True) <= 1  # with nothing to merge nothing is wrong, not even by rounding
        ratio = np.where(alone, 1.0, np.divide(shares, sums, out=np.zeros_like(sums), where=sums > 0))
        value = np.zeros_like(honest.value)
        for i, part in enumerate(at):
            value[..., part] = honest.value[..., part] * ratio[..., i, None]
        return replace(honest, value=value)

    return weights


def accumulator_kept(axis: int) -> Function:
    """Return heads [b, t, q, h] to each of which those before it along an axis are still added."""

    def heads(weights: Array, values: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
        honest = attention.attend(weights, values, scope=scope, plan=plan)
        return replace(honest, value=np.cumsum(honest.value, axis), spread=np.cumsum(honest.spread, axis))

    return heads


def heads_of_first_row(weights: Array, values: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Give the first row's heads to every row."""
    honest = attention.attend(weights, values, scope=scope, plan=plan)
    return replace(honest, value=np.broadcast_to(honest.value[:1], honest.value.shape).copy())


def split_channels_first(x: Array, w: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Split the projection g·h as [h, g] instead of [g, h]."""
    honest = attention.project_heads(x, w, scope=scope, plan=plan)
    b, t, g, h = honest.value.shape

    def split(y: Array) -> Array:
        return y.reshape(b, t, h, g).swapaxes(-1, -2)

    return replace(honest, value=split(honest.value), spread=split(np.broadcast_to(honest.spread, honest.value.shape)))


# Experts, scales, norms


def combined_by_first_gate(gate: Array, outputs: Array, index: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Multiply all outputs [b, t, c, d] of a token by its first gate."""
    return experts.combine(np.broadcast_to(gate[..., :1], gate.shape), outputs, index, scope=scope, plan=plan)


def averaged(scales: Array, _num_rows: int) -> Array:
    """Give every expert the mean of all experts' scales [e, G, n]."""
    mean = scales.astype(np.float32).mean(0, keepdims=True).astype(scales.dtype)
    return np.broadcast_to(mean, scales.shape)


def of_first_expert(scales: Array, _num_rows: int) -> Array:
    """Give every expert the scales of the first one."""
    return np.broadcast_to(scales[:1], scales.shape)


def in_tiles(size: int) -> Callable[[Array, int], Array]:
    """Return a reading of scales that were laid out for tiles: [tiles, size] read as [size, tiles]."""

    def read(scales: Array, _num_rows: int) -> Array:
        num_columns = scales.shape[-1]
        if num_columns % size or num_columns == size:
            return scales
        return scales.reshape(*scales.shape[:-1], size, -1).swapaxes(-1, -2).reshape(scales.shape)

    return read


def norm_of_scaled_input(x: Array, gain: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Divide x by its largest value first: eps then counts in units of that value's square."""
    honest = norm.rms_norm(x, gain, scope=scope, plan=plan)
    largest = np.abs(x).max(-1, keepdims=True)
    mean = np.square(x).mean(-1, keepdims=True)
    other = np.maximum(mean + EPSILON * np.square(largest), np.finfo(np.float64).tiny)
    return replace(honest, value=honest.value * np.sqrt((mean + EPSILON) / other))


def norm_with_eps_outside(x: Array, gain: Array, *, scope: Scope, plan: RoundingPlan) -> Exact:
    """Divide x by its root mean square and eps, which is added to the root and not below it."""
    honest = norm.rms_norm(x, gain, scope=scope, plan=plan)
    mean = np.square(x).mean(-1, keepdims=True)
    return replace(honest, value=honest.value * np.sqrt(mean + EPSILON) / (np.sqrt(mean) + EPSILON))


BASES = (("e", 1 / math.log(2), "2"), ("2", math.log(2), "e"))
"""The base in which log-sum-exps are merged, the factor by which they are then too large, and the base they have."""

MERGED = tuple(
    Fault(
        id=f"merged_in_base_{base}_{name}",
        kind="execution",
        title=f"partial attentions {words} are merged in base {base}; their log-sum-exp has base {other}",
        remedy="merge partial attentions in the base in which their log-sum-exp is kept",
        explanation="The softmax runs over all slots; parts are merged by the exponential of their own log-sum-exp.",
        provenance="flashinfer#2113, sglang#40903",
        changes=changes_at("attention.weights", function=merged_by(parts, factor)),
        shown_by=("sweep_long/sweep/prompt_257.*",),
        trigger=trigger,
    )
    for base, factor, other in BASES
    for name, words, parts, trigger in (
        *((f"every_{size}", f"of {size} slots", in_blocks(size), ("steps in the cache", size))
          for size in (16, 32, 64, 128, 256)),
        *((f"in_{count}", f"of {count} splits", in_splits(count), ("steps in the cache", count))
          for count in (2, 4, 8)),
    )
)  # fmt: skip

ATTENTION = (
    Fault(
        id="cap_not_multiplied_back",
        kind="operation",
        title="tanh(x/30) is not multiplied by 30",
        remedy="multiply tanh(x/30) by 30 again",
        explanation="Attention logits are bounded by 30·tanh(x/30).",
        provenance="onnxruntime#21683",
        changes=changes_at("attention.logits", function=capped_by(lambda x: np.tanh(x / LOGIT_CAP))),
    ),
    Fault(
        id="value_heads_split_channels_first",
        kind="operation",
        title="the projected values are split as [h, g] instead of [g, h]",
        remedy="split the projected values into heads as [g, h]: the channels of a head are contiguous",
        explanation="The columns of the value matrix are its heads one after the other.",
        provenance="converters between layouts",
        changes=changes_at("attention.value", function=split_channels_first),
    ),
    Fault(
        id="accumulator_kept_between_rows",
        kind="execution",
        title="the accumulator of p·V is not reset between the rows of a batch",
        remedy="set the accumulator to zero before every row of the batch",
        explanation="Every row's heads are a sum of its own.",
        provenance="flashinfer#5029",
        changes=changes_at("attention.heads", function=accumulator_kept(0)),
        trigger=("rows of a batch", 2),
    ),
    Fault(
        id="accumulator_kept_between_tokens",
        kind="execution",
        title="the accumulator of p·V is not reset between the tokens of a call",
        remedy="set the accumulator to zero before every query",
        explanation="Every token's heads are a sum of their own.",
        provenance="flashinfer#5029",
        changes=changes_at("attention.heads", function=accumulator_kept(1)),
        trigger=("tokens of a row in a call", 2),
    ),
    Fault(
        id="heads_of_the_first_row",
        kind="execution",
        title="every row of a batch gets the heads of the first one",
        remedy="index the heads by their row of the batch",
        explanation="Every row attends for itself.",
        provenance="flash-attention#176",
        changes=changes_at("attention.heads", function=heads_of_first_row),
        trigger=("rows of a batch", 2),
    ),
)  # fmt: skip

EXPERT_ROWS = (
    Fault(
        id="gate_on_input_and_output",
        kind="operation",
        title="the gates multiply the experts' input as well as their output",
        remedy="multiply the experts' outputs by the gates, and leave their input as it is",
        explanation="The gate multiplies each chosen expert's output, once.",
        provenance="vllm#43694",
        changes=dict.fromkeys(
            ("moe.expert_activation", "moe.expert_up"),
            Change(function=expert_in_of_gated, inputs=("moe.norm", "moe.expert_index", "moe.expert_gate")),
        ),
    ),
    Fault(
        id="gate_of_the_first_choice",
        kind="operation",
        title="a token's first gate multiplies the outputs of all its experts",
        remedy="take the gate by token and rank, not by token",
        explanation="Every chosen expert has a gate of its own.",
        provenance="vllm-xpu-kernels#66",
        changes=changes_at("moe.output", function=combined_by_first_gate),
    ),
    Fault(
        id="scales_averaged_over_experts",
        kind="weights",
        title="every expert is dequantised by the mean of all experts' scales",
        remedy="dequantise every expert by its own scales",
        explanation="Scales are stored for every expert: [e, G, n].",
        provenance="neuronx-distributed-inference#35",
        changes=changes_at(*EXPERTS, reading=scales_read(averaged)),
    ),
    Fault(
        id="scales_of_the_first_expert",
        kind="weights",
        title="every expert is dequantised by the first expert's scales",
        remedy="dequantise every expert by its own scales",
        explanation="Scales are stored for every expert: [e, G, n].",
        provenance="TensorRT-LLM#10780",
        changes=changes_at(*EXPERTS, reading=scales_read(of_first_expert)),
    ),
    *(
        Fault(
            id=f"scales_in_tiles_of_{size}",
            kind="weights",
            title=f"scales are read as if laid out for tiles of {size} columns",
            remedy="read the scales in the order of the matrix's columns",
            explanation="Column n of a group has scale n, in the order in which they are stored.",
            provenance="flashinfer#4087",
            changes=changes_at(*QUANTISED, reading=scales_read(in_tiles(size))),
        )
        for size in (2, 4, 8, 16, 32, 64, 128)
    ),
    Fault(
        id="norm_eps_scaled",
        kind="operation",
        title="the norms divide their input by its largest value first, and eps is added to the smaller squares",
        remedy="add eps to the mean square of the input as it is",
        explanation="eps is 1e-5 and is added to the mean square of the input (SPEC §4).",
        provenance="coremltools#2822",
        changes=changes_at(*NORMS, function=norm_of_scaled_input),
    ),
    Fault(
        id="norm_eps_outside",
        kind="operation",
        title="eps is added to the norms' root, not to the mean square below it",
        remedy="add eps to the mean square before the root is taken",
        explanation="eps is 1e-5 and is added to the mean square of the input (SPEC §4).",
        provenance="norm kernels written by hand",
        changes=changes_at(*NORMS, function=norm_with_eps_outside),
    ),
)  # fmt: skip

FAULTS = (*MERGED, *ATTENTION, *EXPERT_ROWS)
