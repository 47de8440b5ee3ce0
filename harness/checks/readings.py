"""Edge readings: what a compiled port's consumers really used, where its taps show less (ARCHITECTURE: reading)."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.measure.noise import fence_of

Reading = Literal["rounded", "carried", "summed", "measured", "again", "recorded"]
"""What an operation used of an input.

The tap as it was shown; what the producer computed before it was rounded, recomputed from what the producer itself
used ("carried"; "summed" where that holds of sums of the residual stream, and not of the embedding; "measured" where an
operation took its statistic of that, and all else of the tap); a copy that was computed once more, in float32
("again"); or a value of which the tap is no more than a record, so that its rounding is unknown.
"""

WORDS = {
    "carried": "carried",
    "summed": "carried but for the embedding",
    "measured": "carried for its mean of squares",
    "again": "computed again",
    "recorded": "recorded",
}

Edge = tuple[str, str, str]
"""The phase of the call (`prefill`, for chunks too, or `decode`), the row that consumes, and the name of its input."""

Readings = Mapping[Edge, Reading]
"""The reading of every edge that is not `rounded`: one for all layers and cases."""

PHASES = ("prefill", "decode")
NUM_DRAWS = 16
"""Draws of the noise of unrounded inputs, from which the deviation of an operation's result is measured."""


def phase_of(num_tokens: int) -> str:
    """Return the phase of a call by its padded length: programs are compiled for one token or for several."""
    return PHASES[num_tokens == 1]


def describe(readings: Readings, operation: str) -> str:
    """Return the readings of one row in words: `moe.norm carried in decode`."""
    by_input: dict[tuple[str, str], list[str]] = {}
    for (phase, row, name), reading in sorted(readings.items(), key=lambda edge: PHASES.index(edge[0][0])):
        if row == operation:
            by_input.setdefault((name, reading), []).append(phase)
    return ", ".join(
        f"{name} {WORDS[reading]}" + ("" if len(phases) == len(PHASES) else f" in {phases[0]}")
        for (name, reading), phases in sorted(by_input.items())
    )


def producers(
    operations: Collection[str],
    readings: Readings,
    graph: ModelGraph,
    config: LanguageModelConfig,
    hidden: Collection[str] = (),
) -> frozenset[str]:
    """Return the rows that must be worked out for some: themselves, what was carried to them, and what is hidden."""
    carried = {(row, source) for (_, row, source), reading in readings.items() if reading != "recorded"}
    needed: set[str] = set()
    following = set(operations)
    while following:
        needed |= following
        following = {
            maker
            for row in following
            for source in graph.by_name[row].inputs
            for maker in graph.makers(source, config)
            if maker in hidden or (row, source) in carried
        } - needed
    return frozenset(needed)


def reader(
    readings: Readings,
    recorded: Mapping[str, str],
    evaluator: Evaluator = evaluate,
    num_draws: int = NUM_DRAWS,
) -> Evaluator:
    """Return an evaluator that gives every operation the inputs that it really used, and applies it by another one.

    `recorded` is the dtype in which each operation's result is kept. What was carried on must have been worked out
    before (see `producers`).
    """
    if not readings:
        return evaluator
    carried: dict[str, Exact] = {}  # of the call at hand
    random = np.random.default_rng(0)

    def read(tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan) -> Exact:
        row = weights.graph.operation_of(tap, scope.config)
        phase = phase_of(scope.tokens.shape[1])
        used, noise = dict(values), {}
        for name, source in zip(row.inputs, weights.graph.input_taps(tap, scope.config), strict=True):
            reading = readings.get((phase, row.name, name))
            begins = split_tap(source)[1] == weights.graph.stream[0]
            if reading in ("carried", "again") or (reading == "summed" and not begins):
                used[source] = carried[source].value
                noise[source] = fence_of(carried[source], "float32", 1.0).deviation
            elif reading == "measured":
                scope = replace(scope, measured=carried[source].value)
            elif reading == "recorded":
                roundoff = UNIT_ROUNDOFF[recorded[split_tap(source)[1]]]
                noise[source] = roundoff / math.sqrt(3) * np.abs(values[source])
        exact = evaluator(tap, scope, weights, used, plan)
        if noise:
            squares = np.zeros_like(exact.value)
            for _ in range(num_draws):
                drawn = {s: used[s] + x * random.standard_normal(x.shape) for s, x in noise.items()}
                other = evaluator(tap, scope, weights, {**used, **drawn}, plan)
                squares += np.square(other.value - exact.value) / num_draws
            exact = replace(exact, inherited=np.sqrt(np.maximum(squares, squares.mean(-1, keepdims=True))))
        before = row.unquantised if row.copies else None  # what is carried on was not stored yet
        stored = [used[source] for source in weights.graph.input_taps(tap, scope.config)] if before else []
        carried[tap] = before(*stored, scope=scope, plan=plan) if before else exact
        return exact

    return read
