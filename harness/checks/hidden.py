"""Operations around taps that are not shown, checked as one: what their modelled noise passes on."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from grok_conformance.harness.cases.case import repeated
from grok_conformance.harness.checks.batches import runs_at_once, shown_to_all
from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import (
    Array,
    LanguageModelConfig,
    split_tap,
    tap_name,
)
from grok_conformance.harness.graph.oracle import Evaluator, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import (
    NUM_SIMULATIONS,
    Fence,
    closed_by,
    disturb,
)

TIED = 1e-12
"""Exact scores closer than this are one score: which comes first is the port's to choose unless the tie rule binds."""


@dataclass(frozen=True)
class Segments:
    """Measured noise of what hidden operations pass on: the deviation per element, and where routing is undecided.

    `undecided` holds for each call the first position of every row from which a hidden choice of experts may honestly
    go either way, int [b] (t where none does).
    """

    deviation: Mapping[Key, Array]
    undecided: Mapping[int, Array]


def simulate(
    exhibit: Exhibit,
    evaluator: Evaluator = evaluate,
    num_draws: int = NUM_SIMULATIONS,
    only: Collection[str] | None = None,
    *,
    rows_apart: bool = False,
) -> Segments:
    """Rerun a case with modelled noise at every hidden operation, and measure how far the shown ones then stray.

    `only` restricts it to some rows, which must be all that a hidden one of them needs (`Exhibit.needed`). Where the
    evaluator keeps the `rows_apart`, as the right one does, many draws are rows of one batch, which costs less.
    """
    case, evidence, look = exhibit.case, exhibit.evidence, exhibit.look
    random = np.random.default_rng(0)
    in_its_ways = partial(
        walk,
        exhibit.preset,
        weights=exhibit.weights,
        plans=exhibit.ways.plans,
        evaluator=evaluator,
        only=only,
    )
    exact = {(call, tap): (result, value) for call, tap, result, value in in_its_ways(case, look)}

    def forced(call: int, tap: str) -> Array | None:
        is_choice = split_tap(tap)[1] == exhibit.evidence.graph.choice and (call, tap) in exact
        return exact[call, tap][1] if is_choice else look(call, tap)

    at_once = runs_at_once((x for _, x in exact.values()), exhibit.ways.plans, num_draws) if rows_apart else 1
    squares: dict[Key, Array] = {}
    for first in range(0, num_draws, at_once):
        times = min(at_once, num_draws - first)
        noisy = in_its_ways(
            repeated(case, times),
            shown_to_all(forced, times),
            perturb=lambda tap, result: strayed(result, evidence.recorded[split_tap(tap)[1]], random),
        )
        for call, tap, result, _ in noisy:
            value = exact[call, tap][0].value
            difference = np.square(result.value.reshape(times, *value.shape) - value).sum(0)
            squares[call, tap] = squares.get((call, tap), 0.0) + difference / num_draws
    deviation = {key: np.sqrt(np.maximum(x, x.mean(-1, keepdims=True))) for key, x in squares.items() if x.any()}
    undecided = {call: undecided_from(exhibit, call, exact, deviation) for call in range(len(case.calls))}
    return Segments(deviation, undecided)


def strayed(exact: Exact, recorded: str, random: np.random.Generator) -> Array:
    """Return one draw of what a hidden operation may honestly pass on; inner roundings go either way where they can."""
    value = disturb(exact, recorded, random)
    return value + exact.jump * random.integers(-1, 2, value.shape) if np.any(exact.jump) else value


def undecided_from(
    exhibit: Exhibit, call: int, exact: Mapping[Key, tuple[Exact, Array]], deviation: Mapping[Key, Array]
) -> Array:
    """Return for each row the first position whose hidden choice of experts lies within honest noise, int [b]."""
    config, graph = exhibit.evidence.config, exhibit.evidence.graph
    b, t = exhibit.case.calls[call].tokens.shape
    undecided = np.zeros((b, t), bool)
    for layer in range(config.model.num_layers if graph.choice and not config.dense else 0):
        key = (call, tap_name(layer, graph.scores))
        if (call, tap_name(layer, graph.choice)) in exhibit.evidence.observed or key not in deviation:
            continue
        gap, fence = boundary_gap(exact[key][1], config), closed_by(deviation[key].max(-1))
        undecided |= (gap <= fence) & ~(exhibit.case.tie_rule & (gap <= TIED))
    first: Array = np.where(undecided.any(-1), undecided.argmax(-1), t)
    return first


def boundary_gap(probabilities: Array, config: LanguageModelConfig) -> Array:
    """Return how far the last chosen expert is ahead of the first one left out, [b, t] from probabilities [b, t, e]."""
    ordered: Array = -np.sort(-probabilities, axis=-1)
    k = config.model.num_selected_experts
    if k == ordered.shape[-1]:
        return np.full(ordered.shape[:-1], math.inf)
    gap: Array = ordered[..., k - 1] - ordered[..., k]
    return gap


def widened(fence: Fence, deviation: Array, factor: float) -> Fence:
    """Add the measured noise of hidden operations to a fence; it is correlated in ways that nothing is known of."""
    return Fence(fence.allowed + factor * deviation, np.hypot(fence.deviation, deviation), None, factor)


def before(undecided: Array, steps: Array, x: Array, axes: tuple[str, ...]) -> Array:
    """Return the mask of query positions, of cache slots in a cache x, before a row's first undecided position."""
    letter, first = ("t", undecided) if "t" in axes else ("s", steps + undecided)
    kept: Array = np.arange(x.shape[axes.index(letter)]) < first[:, None]  # [b, t] or [b, s]
    reshaped: Array = kept.reshape([kept.shape[("b", letter).index(a)] if a in ("b", letter) else 1 for a in axes])
    return reshaped
