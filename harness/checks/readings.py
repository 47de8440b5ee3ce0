"""Edge readings: what a compiled port's consumers really used, where its taps show less (ARCHITECTURE: reading)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Literal

import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate
from grok_conformance.harness.graph.row import Alternative, Exact, Operation, Scope
from grok_conformance.harness.measure.noise import fence_of

Reading = Literal["rounded", "carried", "recorded"]
"""What an operation used of an input.

The tap as it was shown; what the producer computed before it was rounded, recomputed from what the producer itself
used; or a value of which the tap is no more than a record, so that its rounding is unknown.
"""

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


def possible(graph: ModelGraph, operation: Operation, phase: str) -> Iterator[Readings]:
    """Yield the readings of an operation's edges, the canonical one first, then those that assume the least."""
    ids = {graph.choice}  # no real numbers, and hence the same however they are kept
    unread = {name for name in operation.inputs if name in ids or name.startswith("previous:")}
    edges = [(phase, operation.name, name) for name in operation.inputs if name not in unread]
    order: list[Reading] = ["rounded", "carried", "recorded"]
    combinations = sorted(
        itertools.product(order, repeat=len(edges)), key=lambda each: (each.count("recorded"), each.count("carried"))
    )
    for readings in combinations:
        yield {edge: reading for edge, reading in zip(edges, readings, strict=True) if reading != "rounded"}


def describe(readings: Readings, operation: str) -> str:
    """Return the readings of one row in words: `moe.norm carried in decode`."""
    by_input: dict[tuple[str, str], list[str]] = {}
    for (phase, row, name), reading in readings.items():
        if row == operation:
            by_input.setdefault((name, reading), []).append(phase)
    return ", ".join(
        f"{name} {reading}" + ("" if len(phases) == len(PHASES) else f" in {phases[0]}")
        for (name, reading), phases in by_input.items()
    )


def producers(
    operations: Collection[str], readings: Readings, graph: ModelGraph, config: LanguageModelConfig
) -> frozenset[str]:
    """Return the rows that must be worked out for some rows: themselves, and what was carried to them."""
    needed = set(operations)
    while True:
        carried = {
            name
            for (_, row, source), reading in readings.items()
            if row in needed and reading == "carried"
            for name in graph.makers(source, config)
        }
        if carried <= needed:
            return frozenset(needed)
        needed |= carried


def reader(
    readings: Readings, recorded: Mapping[str, str], only: Collection[str] | None, evaluator: Evaluator = evaluate
) -> Evaluator:
    """Return an evaluator that gives every operation the inputs that it really used, and applies it by another one.

    `recorded` is the dtype in which each operation's result is kept. With `only`, just those rows are worked out, and
    what is carried to them; the others are left blank, and must be shown.
    """
    if not readings and only is None:
        return evaluator
    carried: dict[str, Exact] = {}  # of the call at hand
    random = np.random.default_rng(0)
    needed: frozenset[str] | None = None

    def read(
        tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], alternative: Alternative
    ) -> Exact:
        nonlocal needed
        row = weights.graph.operation_of(tap, scope.config)
        if only is not None:
            needed = needed or producers(only, readings, weights.graph, scope.config)
            if row.name not in needed:
                return Exact(np.empty(0))
        phase = phase_of(scope.tokens.shape[1])
        used, noise = dict(values), {}
        for name, source in zip(row.inputs, weights.graph.input_taps(tap, scope.config), strict=True):
            reading = readings.get((phase, row.name, name))
            if reading == "carried":
                used[source] = carried[source].value
                noise[source] = fence_of(carried[source], "float32", 1.0).deviation
            elif reading == "recorded":
                roundoff = UNIT_ROUNDOFF[recorded[split_tap(source)[1]]]
                noise[source] = roundoff / math.sqrt(3) * np.abs(values[source])
        exact = evaluator(tap, scope, weights, used, alternative)
        if noise:
            squares = np.zeros_like(exact.value)
            for _ in range(NUM_DRAWS):
                drawn = {s: used[s] + x * random.standard_normal(x.shape) for s, x in noise.items()}
                other = evaluator(tap, scope, weights, {**used, **drawn}, alternative)
                squares += np.square(other.value - exact.value) / NUM_DRAWS
            exact = replace(exact, inherited=np.sqrt(np.maximum(squares, squares.mean(-1, keepdims=True))))
        carried[tap] = exact
        return exact

    return read
