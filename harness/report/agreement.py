"""How routing and logits agree, and how errors grow along the residual stream: plain data for the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import split_tap, tap_name
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.measure.histogram import EDGES
from grok_conformance.harness.report.figures import added, dtype_of, number

STREAM = tuple(GROK_1.by_name[name].tap for name, _ in GROK_1.stream_edges)
"""The taps of every layer that are the residual stream."""

CLOSE = EDGES.index(1.0) + 1
"""Bins of routing margins within honest noise."""


@dataclass(frozen=True)
class Layer:
    """The routing of one layer: compared tokens, those within noise of another choice, and other choices made."""

    layer: int
    num_tokens: int
    num_close: int
    excused: int
    unexcused: int
    histogram: Sequence[int]


@dataclass(frozen=True)
class Phase:
    """How the logits agree in one kind of call and compute dtype; KL divergences in nats."""

    kind: str
    dtype: str
    num_tokens: int
    mean_kl: float
    worst_kl: float
    expected_kl: float
    top_1: float


@dataclass(frozen=True)
class Growth:
    """End-to-end error along the residual stream in the deepest case of one dtype, worst token of each tap."""

    dtype: str
    case: str
    taps: Sequence[str]
    observed: Sequence[float]
    honest: Sequence[float]
    expected: Sequence[float]


def routing(row: Mapping[str, Any]) -> list[Layer]:
    """Return the routing of every layer over all cases."""
    flips = [flip for case in row["cases"] for flip in case["flips"]]
    margins = [margin for case in row["cases"] for margin in case["margins"]]
    found = []
    for layer in sorted({margin["layer"] for margin in margins}):
        histogram = added(margin["histogram"] for margin in margins if margin["layer"] == layer)
        excused = [number(flip["gap"]) <= number(flip["allowed"]) for flip in flips if flip["layer"] == layer]
        found.append(
            Layer(layer, sum(histogram), sum(histogram[:CLOSE]), sum(excused), len(excused) - sum(excused), histogram)
        )
    return found


def tokens_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield (compute dtype, agreement) of every token whose logits were compared."""
    for case in row["cases"]:
        for token in case["logits"]:
            yield dtype_of(case["case"]), token


def phases(row: Mapping[str, Any]) -> list[Phase]:
    """Return how the logits agree in every kind of call, prefill beside decode."""
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for dtype, token in tokens_of(row):
        groups.setdefault((dtype, token["kind"]), []).append(token)
    return [
        Phase(
            kind,
            dtype,
            len(tokens),
            sum(number(token["kl_divergence"]) for token in tokens) / len(tokens),
            max(number(token["kl_divergence"]) for token in tokens),
            max(number(token["expected_kl"]) for token in tokens),
            sum(token["top_1"] for token in tokens) / len(tokens),
        )
        for (dtype, kind), tokens in sorted(groups.items())
    ]


def by_position(row: Mapping[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the largest KL divergence at every position: {compute dtype: {kind of call: {position: nats}}}."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for dtype, token in sorted(tokens_of(row), key=lambda pair: (pair[0], pair[1]["position"])):
        kind, position = token["kind"], str(token["position"])
        worst = found.setdefault(dtype, {}).setdefault(kind, {})
        worst[position] = max(worst.get(position, 0.0), number(token["kl_divergence"]))
    return found


def growth(row: Mapping[str, Any]) -> list[Growth]:
    """Return the end-to-end error along the residual stream, of the deepest case of each compute dtype."""
    deepest: dict[str, tuple[int, Mapping[str, Any]]] = {}
    for case in row["cases"]:
        layers = [split_tap(drift["tap"])[0] for drift in case["drifts"]]
        depth = max((layer for layer in layers if layer is not None), default=-1)
        if depth > deepest.get(dtype_of(case["case"]), (-1, case))[0]:
            deepest[dtype_of(case["case"])] = depth, case
    found = []
    for dtype, (depth, case) in sorted(deepest.items()):
        stream = [
            GROK_1.stream[0],
            *(tap_name(i, name) for i in range(depth + 1) for name in STREAM),
        ]
        drifts = {drift["tap"]: drift for drift in case["drifts"] if drift["call"] == 0}
        taps = [tap for tap in stream if tap in drifts]
        observed, honest, expected = (
            [number(drifts[tap][key]) for tap in taps] for key in ("observed_error", "honest_error", "expected_error")
        )
        found.append(Growth(dtype, case["case"], taps, observed, honest, expected))
    return found
