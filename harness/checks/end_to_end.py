"""The global check: a port's whole run against the exact model, tap by tap and token by token, end to end.

Rounding errors grow through the layers, so what is honest is measured: the oracle is rerun with modelled noise at every
operation, and a port's error per token is compared with what those runs show. Where a port chose other experts than
the exact model, the choice is excused only if the exact scores lie within honest noise of each other; the comparison
then goes on along the port's own route.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from grok_conformance.harness.cases.case import Case, Preset, repeated, tap_key
from grok_conformance.harness.checks.batches import runs_at_once, shown_to_all
from grok_conformance.harness.checks.evidence import Evidence, Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.undecided import Open, decided, open_to_choice, undecided_choices
from grok_conformance.harness.contract import Array, LanguageModelConfig, split_tap, tap_name
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, Plans, evaluate, walk
from grok_conformance.harness.measure.noise import NUM_DEVIATING_RUNS, NUM_RUNS, SAFETY, closed_by, disturb

TINY = float(np.finfo(np.float32).tiny)
"""What any token may stray, so that a quotient of nothing by nothing is none."""


@dataclass(frozen=True)
class Drift:
    """The end-to-end error of one tap: worst token's error / allowed, its index (row, position), and plain figures.

    The errors are root mean squares over the token's features; `expected_error` is that of the golden.
    """

    call: int
    tap: str
    ratio: float
    index: tuple[int, ...]
    observed_error: float
    honest_error: float
    expected_error: float


@dataclass(frozen=True)
class Flip:
    """A token for which a port chose other experts than the exact model, how close the choice was, what is honest."""

    call: int
    layer: int
    index: tuple[int, ...]
    gap: float
    allowed: float

    @property
    def excused(self) -> bool:
        """Whether the exact scores at the boundary lie within twice the honest fence on the router's error."""
        return self.gap <= self.allowed


@dataclass(frozen=True)
class Honest:
    """The exact run along a route, and the honest error of every token on it; keyed by (call, tap)."""

    exact: Mapping[Key, Array]
    error: Mapping[Key, Array]

    @functools.cached_property
    def num_bytes(self) -> int:
        """The memory that it takes."""
        return sum(x.nbytes for values in (self.exact, self.error) for x in values.values())

    def allowed(self, key: Key) -> Array:
        """Return how far each token of a tap may stray, the root mean square over its features, float64 [b, t]."""
        return SAFETY * self.error[key] + TINY

    def closes(self, key: Key) -> Array:
        """Return what honest rounding can close of a gap between two scores of a token, both of which may stray."""
        return closed_by(self.error[key])


def per_token(error: Array, axes: tuple[str, ...]) -> Array:
    """Return the root mean square of an error over all but the batch and the position (or cache slot)."""
    other = tuple(i for i, axis in enumerate(axes) if axis not in ("b", "t") and not (axis == "s" and "t" not in axes))
    rms: Array = np.sqrt(np.mean(np.square(error), axis=other))
    return rms


def honest_run(
    preset: Preset,
    case: Case,
    route: Mapping[Key, Array],
    weights: ExactWeights,
    recorded: Mapping[str, str],
    evaluator: Evaluator = evaluate,
    plans: Plans | None = None,
) -> Honest:
    """Walk the exact model along a route (float64 expert indices by (call, tap)), and measure honest errors on it.

    `recorded` is the dtype in which each operation's result is kept. A route may hold other taps too, from whose values
    the model then goes on; `evaluator` applies the operations, by their `plans`. No token's honest error is less than
    the median over its tap, with another evaluator than the mean, and with a declared quantisation, in which a value
    may fall on another step, than the largest.
    """
    random = np.random.default_rng(0)

    def along(call: int, tap: str) -> Array | None:
        return route.get((call, tap))

    once = walk(preset, case, along, weights=weights, plans=plans, evaluator=evaluator)
    exact = {(call, tap): value for call, tap, _, value in once}
    squares: dict[Key, Array] = {}
    # Another evaluator may have a fault that mixes the rows of a batch: its runs are made one by one.
    num_runs = NUM_RUNS if evaluator is evaluate else NUM_DEVIATING_RUNS
    floor: Callable[[Array], Any] = np.median if evaluator is evaluate else np.mean
    floor = np.max if weights.graph.quantised else floor
    at_once = runs_at_once(exact.values(), plans or {}, num_runs) if evaluator is evaluate else 1
    for first in range(0, num_runs, at_once):
        runs = min(at_once, num_runs - first)
        noisy = walk(
            preset,
            repeated(case, runs),
            shown_to_all(along, runs),
            weights=weights,
            plans=plans,
            evaluator=evaluator,
            perturb=lambda tap, result: disturb(result, recorded[split_tap(tap)[1]], random),
        )
        for call, tap, _, value in noisy:
            errors = value.reshape(runs, *exact[call, tap].shape) - exact[call, tap]
            axes, so_far = weights.graph.specs[split_tap(tap)[1]].axes, squares.get((call, tap), 0.0)
            if weights.graph.quantised:  # flips to another step are rare, and large
                own = np.square([per_token(error, axes) for error in errors]).max(0)
                squares[call, tap] = np.maximum(so_far, own)
            else:
                squares[call, tap] = so_far + np.square(per_token(errors, ("run", *axes))) * (runs / num_runs)
    return Honest(exact, {key: np.sqrt(np.maximum(x, floor(x))) for key, x in squares.items()})


def route_of(evidence: Evidence) -> dict[Key, Array]:
    """Return the experts that a port chose, where it shows them."""
    return {
        key: seen.cleaned for key, seen in evidence.observed.items() if split_tap(key[1])[1] == evidence.graph.choice
    }


def open_end_to_end(exhibit: Exhibit, honest: Honest) -> Open:
    """Return what of every tap hangs on a choice that is not shown and that honest noise leaves undecided."""
    return open_to_choice(exhibit, undecided_choices(exhibit, honest.exact, honest.error), ())


def drifts(evidence: Evidence, honest: Honest, expected: Mapping[str, Array], hanging: Open) -> list[Drift]:
    """Return the end-to-end error of every tap shown, at its worst token; `expected` holds the golden `call0/TAP`s.

    Tokens that are `hanging` on an undecided choice tell nothing.
    """
    found = []
    for (call, tap), seen in evidence.observed.items():
        operation = split_tap(tap)[1]
        if operation == evidence.graph.choice:
            continue
        spec, key = evidence.graph.specs[operation], (call, tap)
        told = decided(hanging.get(key), seen.raw, spec.axes)
        mask = np.broadcast_to(evidence.masks[call, operation] & told, seen.raw.shape)
        tokens = per_token(mask.astype(np.float64), spec.axes) > 0
        exact = honest.exact[key]
        observed_error = per_token(np.where(mask, seen.cleaned - exact, 0.0), spec.axes)
        expected_error = per_token(
            np.where(mask, expected[tap_key(call, tap)].astype(np.float64) - exact, 0.0), spec.axes
        )
        allowed = honest.allowed(key)
        ratio = np.where(tokens, observed_error / allowed, 0.0)
        index = np.unravel_index(int(np.argmax(ratio)), ratio.shape)
        found.append(
            Drift(
                call,
                tap,
                float(ratio[index]),
                tuple(int(i) for i in index),
                float(observed_error[index]),
                float(honest.error[key][index]),
                float(expected_error[index]),
            )
        )
    return found


def flips(evidence: Evidence, honest: Honest, config: LanguageModelConfig) -> list[Flip]:
    """Return every token for which a port chose other experts than the exact model would along the same route.

    The gap is how far the best expert left out is ahead of the worst one chosen.
    """
    found = []
    for (call, tap), seen in evidence.observed.items():
        layer, operation = split_tap(tap)
        if operation != evidence.graph.choice or layer is None:
            continue
        key = (call, tap_name(layer, evidence.graph.scores))
        probabilities, closes = honest.exact[key], honest.closes(key)
        k = config.model.num_selected_experts
        exact = np.argsort(-probabilities, axis=-1, kind="stable")[..., :k]
        differs = (np.sort(exact, -1) != np.sort(seen.cleaned, -1)).any(-1)  # [b, t]
        differs &= evidence.masks[call, operation][..., 0]
        chosen = seen.cleaned.astype(np.int64)  # [b, t, c]
        left_out = probabilities.copy()
        np.put_along_axis(left_out, chosen, -np.inf, -1)
        gap = left_out.max(-1) - np.take_along_axis(probabilities, chosen, -1).min(-1)
        found += [
            Flip(call, layer, (int(row), int(t)), float(gap[row, t]), float(closes[row, t]))
            for row, t in np.argwhere(differs)
        ]
    return found
