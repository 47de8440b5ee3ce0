"""Operations around taps that are not shown, checked as one: what their modelled noise passes on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from grok_conformance.harness.cases.case import repeated
from grok_conformance.harness.checks.batches import runs_at_once, shown_to_all
from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.undecided import Open, decided, open_to_choice, undecided_choices
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.graph.oracle import Evaluator, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import (
    NUM_SIMULATIONS,
    Fence,
    disturb,
)


@dataclass(frozen=True)
class Segments:
    """Measured noise of what hidden operations pass on: the deviation per element, and what a hidden choice decides.

    `hanging` is what of every tap hangs on a hidden choice of experts that may honestly go either way (`undecided`).
    """

    deviation: Mapping[Key, Array]
    hanging: Open

    def decided(self, key: Key, x: Array, axes: tuple[str, ...]) -> Array:
        """Return the mask of a tap x, by its axes, that leaves out what hangs on an undecided choice."""
        return decided(self.hanging.get(key), x, axes)


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
    undecided = undecided_choices(exhibit, {key: value for key, (_, value) in exact.items()}, deviation)
    return Segments(deviation, open_to_choice(exhibit, undecided, evidence.observed))


def strayed(exact: Exact, recorded: str, random: np.random.Generator) -> Array:
    """Return one draw of what a hidden operation may honestly pass on; inner roundings go either way where they can."""
    value = disturb(exact, recorded, random)
    return value + exact.jump * random.integers(-1, 2, value.shape) if np.any(exact.jump) else value


def widened(fence: Fence, deviation: Array, factor: float) -> Fence:
    """Add the measured noise of hidden operations to a fence; it is correlated in ways that nothing is known of."""
    return Fence(fence.allowed + factor * deviation, np.hypot(fence.deviation, deviation), None, factor)
