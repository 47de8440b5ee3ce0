"""Declared quantisations: operands that a port says it multiplies, or caches that it says it keeps, in fewer bits.

A port that declares one is judged by a graph of its own, in which those operations quantise as it says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array, select_taps, tap_name
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF, round_to
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Operation, Scope

Quantiser = Callable[[Array, float], Array]
"""Quantises the last axis of x [..., k] by a scale that is off by a relative nudge; float64 [..., k]."""

INT8_MAX = 127.0
FP8_MAX = 448.0
"""The largest value of float8_e4m3fn."""

SMALLEST_SCALE = 1e-30
BLOCK = 32
"""Values that share a scale in ggml's Q8_0."""

NUDGE = 2.0**-21
"""How far the scale that a port divides by may be off: float32 quotients of float32 scales, times their reciprocals."""


def int8(x: Array, nudge: float) -> Array:
    """Round to int8 with one scale."""
    scale = np.maximum(np.abs(x).max(-1, keepdims=True) / INT8_MAX, SMALLEST_SCALE)
    rounded: Array = np.clip(np.round(x / scale * (1 + nudge)), -INT8_MAX, INT8_MAX) * scale
    return rounded


def int8_in_blocks(x: Array, nudge: float) -> Array:
    """Round to int8 in blocks of 32, with a float16 scale each, as ggml's Q8_0."""
    parts = []
    for first in range(0, x.shape[-1], BLOCK):
        part = x[..., first : first + BLOCK]
        scale = np.maximum(round_to(np.abs(part).max(-1, keepdims=True) / INT8_MAX, "float16"), 1e-7)
        parts.append(np.clip(np.round(part / scale * (1 + nudge)), -INT8_MAX, INT8_MAX) * scale)
    return np.concatenate(parts, -1)


def fp8(x: Array, nudge: float) -> Array:
    """Round to float8_e4m3fn with one scale."""
    scale = np.maximum(np.abs(x).max(-1, keepdims=True) / FP8_MAX, SMALLEST_SCALE)
    rounded: Array = fp8_unscaled(x / scale, nudge) * scale
    return rounded


def fp8_unscaled(x: Array, nudge: float) -> Array:
    """Round to float8_e4m3fn without a scale; what is too large saturates."""
    return (
        np.clip(x * (1 + nudge), -FP8_MAX, FP8_MAX)
        .astype(np.float32)
        .astype(ml_dtypes.float8_e4m3fn)
        .astype(np.float64)
    )


QUANTISERS: Mapping[str, Quantiser] = {
    "int8": int8,
    "int8_block32": int8_in_blocks,
    "fp8": fp8,
    "fp8_unscaled": fp8_unscaled,
}
"""The quantisations that INFO may declare (`contract.QUANTISATIONS`)."""


def declared(graph: ModelGraph, quantised: Mapping[str, str]) -> ModelGraph:
    """Return a graph whose operations quantise their operands as a port declares, by globs of taps in every layer."""
    taps = {
        row.name: tap_name(0 if graph.specs[row.tap].per_layer else None, row.tap)
        for row in graph.operations
        if row.operands
    }
    kinds: dict[str, str] = {}
    for pattern, kind in quantised.items():  # the first match wins
        chosen = select_taps(taps.values(), [pattern])
        kinds = {**{name: kind for name, tap in taps.items() if tap in chosen}, **kinds}
    made = (quantising(row, kinds[row.name], graph) if row.name in kinds else row for row in graph.operations)
    return replace(graph, operations=tuple(made), quantised=quantised)


def quantising(row: Operation, kind: str, graph: ModelGraph) -> Operation:
    """Return a row that quantises its operands; one scale holds all that is summed with a stored matrix."""
    summed = set(row.products) - set(graph.specs[row.tap].axes) if row.weights else {"k"}
    function = functools.partial(computed, row=row, quantise=QUANTISERS[kind], num_axes=len(summed))
    return replace(row, function=function, unquantised=row.function)


def computed(
    *inputs: Array, row: Operation, quantise: Quantiser, num_axes: int, scope: Scope, plan: RoundingPlan
) -> Exact:
    """Compute a row from quantised operands: a value that lies between two steps may fall on either of them.

    What a cache held before may have been quantised too, as one that was given is.
    """

    def off_by(nudge: float) -> Exact:
        made = list(inputs)
        for i in range(len(inputs)) if row.copies and nudge else row.operands:
            flat = inputs[i].reshape(*inputs[i].shape[:-num_axes], -1)
            made[i] = quantise(flat, nudge).reshape(inputs[i].shape)
        return row.function(*made, scope=scope, plan=plan)

    exact, *others = map(off_by, (0.0, NUDGE, -NUDGE))
    jump = np.sum([np.abs(other.value - exact.value) for other in others], axis=0)
    jump *= 1 + UNIT_ROUNDOFF[scope.config.fprop_dtype]  # what it jumps to is rounded at its own size
    return replace(exact, bound=exact.bound + 2 * np.abs(exact.value), jump=exact.jump + jump)
