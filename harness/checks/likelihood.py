"""How likely what was shown of a row is, if it was computed in given ways: what tells rounding plans apart."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.hidden import Segments, simulate, widened
from grok_conformance.harness.checks.readings import reader
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.graph.oracle import Evaluator, evaluate, walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import Fence, fence_of
from grok_conformance.harness.measure.rounding_grid import share_on_grid

DECISIVE = 12.0
"""By how much less surprising one way must be than another, in units of ln likelihood: 1 : 160,000."""

NUM_DRAWS = 4
"""Walks from which the noise of hidden operations is estimated while ways are told apart."""

FACTOR = 7.0
"""λ of a usual run, within which the search takes what was shown as explained."""


@dataclass(frozen=True)
class Score:
    """How surprising some taps are, in units of −ln likelihood, and the worst error over its fence.

    `misfit` is the part of the surprise that errors have, and not how far a way lets them stray. `squares` are the sums
    of the squared errors and of the squared values.
    """

    surprise: float
    worst: float
    misfit: float = 0.0
    squares: tuple[float, float] = (0.0, 0.0)

    @property
    def relative(self) -> float:
        """How large the errors are beside the values, as root mean squares."""
        errors, values = self.squares
        return math.sqrt(errors / values) if values else 0.0

    @property
    def explained(self) -> bool:
        """Whether nothing is left to explain."""
        return self.worst <= 1

    def beats(self, other: Score) -> bool:
        """Return whether this way is decisively likelier."""
        return self.surprise < other.surprise - DECISIVE

    def explains_more(self, other: Score) -> bool:
        """Return whether this way explains all, and decisively better than one that does not, whatever it allows.

        A sum that is rounded again and again strays farther than one that is rounded once.
        """
        return self.explained and not other.explained and self.misfit < other.misfit - DECISIVE


Noise = Segments | None
"""The noise of hidden operations before a row in one case, None where none is hidden."""


def noise_before(row: str, exhibit: Exhibit, evaluator: Evaluator = evaluate) -> Noise:
    """Return the noise of the hidden operations before a row in a case, in the ways it is taken to compute."""
    needed = exhibit.needed([row])
    if exhibit.hidden.isdisjoint(needed):
        return None
    read = reader(exhibit.ways.readings, exhibit.evidence.recorded, evaluator, NUM_DRAWS)
    return simulate(exhibit, read, NUM_DRAWS, needed, rows_apart=evaluator is evaluate)


def score(
    row: str, exhibits: Sequence[Exhibit], evaluator: Evaluator = evaluate, noise: Sequence[Noise] | None = None
) -> Score:
    """Return how surprising the taps of a row are in some cases, each in the ways it is taken to compute.

    `noise` is that of every case where it is known already. Errors are taken as Cauchy-distributed about the modelled
    deviation: a fault or a rare jump does not outweigh the many elements that a right way explains to the last bit.
    """
    return of_all_layers(score_by_layer(row, exhibits, evaluator, noise))


def score_by_layer(
    row: str,
    exhibits: Sequence[Exhibit],
    evaluator: Evaluator = evaluate,
    noise: Sequence[Noise] | None = None,
    *,
    explained_only: bool = False,
) -> dict[int | None, list[Score]]:
    """Return the scores of a row's taps by layer, as `score` does of all of them.

    With `explained_only` the first tap that is not explained ends it, and nothing is returned.
    """
    if noise is None:
        noise = [noise_before(row, one, evaluator) for one in exhibits]
    parts: dict[int | None, list[Score]] = {}
    for one, segments in zip(exhibits, noise, strict=True):
        for layer, part in _parts(row, one, evaluator, segments):
            if explained_only and not part.explained:
                return {}
            parts.setdefault(layer, []).append(part)
    return parts


def of_all_layers(parts: Mapping[int | None, Sequence[Score]]) -> Score:
    """Return the score of all layers together."""
    return added([part for each in parts.values() for part in each])


def added(parts: Sequence[Score]) -> Score:
    """Return the score of some taps together."""
    surprise, misfit = sum(part.surprise for part in parts), sum(part.misfit for part in parts)
    errors, values = (sum(part.squares[i] for part in parts) for i in (0, 1))
    return Score(surprise, max((part.worst for part in parts), default=0.0), misfit, (errors, values))


def explains(row: str, exhibits: Sequence[Exhibit], rival: Evaluator) -> bool:
    """Return whether a fault's evaluator leaves nothing of a row to explain."""
    try:
        return bool(score_by_layer(row, exhibits, rival, explained_only=True))
    except (IndexError, KeyError, ValueError):  # values of another shape
        return False


def score_rival(row: str, exhibits: Sequence[Exhibit], rival: Evaluator, noise: Sequence[Noise] | None = None) -> Score:
    """Return the score of a row by a fault's evaluator, an infinite one where its values have another shape."""
    try:
        return score(row, exhibits, rival, noise)
    except (IndexError, KeyError, ValueError):
        return Score(math.inf, math.inf)


def surprises(
    row: str, exhibits: Sequence[Exhibit], evaluator: Evaluator, noise: Sequence[Noise]
) -> dict[int | None, list[Array]]:
    """Return how surprising each value of a row's taps is, [tokens, values] by layer, NaN where it is not compared.

    The noise of every case is taken as given. {} where the evaluator gives values of another shape.
    """
    found: dict[int | None, list[Array]] = {}
    try:
        for one, segments in zip(exhibits, noise, strict=True):
            for (call, tap), exact, mask, deviation in _worked_out(row, one, evaluator, segments):
                seen = one.evidence.observed[call, tap]
                surprise = _surprise(exact, seen.raw, seen.recorded, mask, deviation)
                found.setdefault(split_tap(tap)[0], []).append(surprise.reshape(math.prod(surprise.shape[:2]), -1))
    except (IndexError, KeyError, ValueError):
        return {}
    return found


def _parts(row: str, exhibit: Exhibit, evaluator: Evaluator, segments: Noise) -> Iterator[tuple[int | None, Score]]:
    for key, exact, mask, deviation in _worked_out(row, exhibit, evaluator, segments):
        seen = exhibit.evidence.observed[key]
        yield split_tap(key[1])[0], _score_tap(exact, seen.raw, seen.recorded, mask, deviation)


def beyond_fences(row: str, exhibits: Sequence[Exhibit], evaluator: Evaluator = evaluate) -> list[Array]:
    """Return which elements of a row's taps are compared and beyond their fences, tap by tap, bool of each one's shape.

    Raises ValueError for a fault that gives another shape.
    """
    found = []
    for one in exhibits:
        for key, exact, mask, deviation in _worked_out(row, one, evaluator, noise_before(row, one)):
            seen = one.evidence.observed[key]
            allowed = _fence(exact, seen.raw, seen.recorded, deviation).allowed
            found.append(mask & (np.abs(seen.raw - exact.value) > allowed))
    return found


def worst_by_tokens_of_expert(row: str, exhibits: Sequence[Exhibit]) -> dict[int, float]:
    """Return the worst error over its fence by how many tokens an expert has, of a tap [b, t, c, ..]; {} of another.

    Nothing is returned where the choice of experts is not shown.
    """
    found: dict[int, float] = {}
    for one in exhibits:
        for (call, tap), exact, mask, deviation in _worked_out(row, one, evaluate, noise_before(row, one)):
            seen, tokens = one.evidence.observed[call, tap], one.tokens_of_expert(call, split_tap(tap)[0])
            if tokens is None or exact.value.shape[: tokens.ndim] != tokens.shape:
                return {}
            for size in np.unique(tokens):
                own = mask & (tokens == size).reshape(*tokens.shape, *[1] * (mask.ndim - tokens.ndim))
                worst = _score_tap(exact, seen.raw, seen.recorded, own, deviation).worst
                found[int(size)] = max(found.get(int(size), 0.0), worst if own.any() else 0.0)
    return found


def _worked_out(
    row: str, exhibit: Exhibit, evaluator: Evaluator, segments: Noise
) -> Iterator[tuple[Key, Exact, Array, Array | None]]:
    """Yield the taps of a row that are looked at: exact, which elements are compared, and the noise before them."""
    case, evidence, graph = exhibit.case, exhibit.evidence, exhibit.evidence.graph
    read = reader(exhibit.ways.readings, evidence.recorded, evaluator, NUM_DRAWS)
    for call, tap, exact, _ in walk(
        exhibit.preset, case, exhibit.look, weights=exhibit.weights, plans=exhibit.ways.plans, evaluator=read,
        only=exhibit.needed([row]),
    ):  # fmt: skip
        key, operation = (call, tap), split_tap(tap)[1]
        if graph.operation_of(tap, evidence.config).name != row or key not in evidence.observed:
            continue
        if not exhibit.looks_at(call):
            continue
        seen, mask = evidence.observed[key], evidence.masks[call, operation]
        deviation = None if segments is None else segments.deviation.get(key)
        if segments is not None:
            mask = mask & segments.decided(key, seen.raw, graph.specs[operation].axes)
        yield key, exact, np.broadcast_to(mask, seen.raw.shape), deviation


def _fence(exact: Exact, observed: Array, recorded: str, deviation: Array | None) -> Fence:
    """Return the fence of a tap, whose values may be finer than their dtype, with the noise before it."""
    finer = recorded != "float32" and share_on_grid(observed, recorded) < 1
    fence = fence_of(exact, "float32" if finer else recorded, FACTOR)
    return fence if deviation is None else widened(fence, deviation, FACTOR)


def _score_tap(exact: Exact, observed: Array, recorded: str, mask: Array, deviation: Array | None) -> Score:
    if exact.value.shape != observed.shape:  # of a fault that gives another shape
        return Score(math.inf, math.inf)
    fence = _fence(exact, observed, recorded, deviation)
    mask = _compared(mask, fence, observed)
    error, sigma = np.abs(observed - exact.value)[mask], fence.deviation[mask]
    misfit = float(_misfit(error, sigma).sum())
    worst = float((error / fence.allowed[mask]).max(initial=0.0))
    squares = float(np.square(error).sum()), float(np.square(exact.value[mask]).sum())
    return Score(float(np.log(sigma).sum()) + misfit, worst, misfit, squares)


def _surprise(exact: Exact, observed: Array, recorded: str, mask: Array, deviation: Array | None) -> Array:
    if exact.value.shape != observed.shape:
        raise ValueError
    fence = _fence(exact, observed, recorded, deviation)
    mask = _compared(mask, fence, observed)
    error, sigma = np.where(mask, observed - exact.value, 0.0), np.where(mask, fence.deviation, 1.0)
    return np.where(mask, np.log(sigma) + _misfit(error, sigma), np.nan)


def _compared(mask: Array, fence: Fence, observed: Array) -> Array:
    return mask & (fence.deviation > 0) & np.isfinite(observed)


def _misfit(error: Array, sigma: Array) -> Array:
    """Return −ln of Cauchy's density at errors, what no error takes away left out."""
    misfit: Array = np.log1p(np.square(error / sigma))
    return misfit
