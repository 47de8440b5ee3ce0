"""Compares one tap with what its operation should have given: shape and dtype before values, then every element."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.measure.blocks import BATCH_SIZE, BLOCK_SIZE, Pair, block_of, blocks_of, kind_of
from grok_conformance.harness.measure.histogram import EDGES, Element, worst_tokens
from grok_conformance.harness.measure.rounding_grid import grid_of
from grok_conformance.harness.measure.scan import Findings, fence_ratio, find_each, find_in
from grok_conformance.harness.measure.systematic import Systematic, conclude, erring_alike
from grok_conformance.harness.measure.words import number_of


class Kind(StrEnum):
    """What may be wrong with a tap that no figure can say."""

    MISSING = "missing"
    SHAPE = "shape"
    OTHER = ""


NOT_FINITE = "not finite"
"""Ends the problem of values that are NaN or infinite."""


@dataclass(frozen=True)
class Comparison:
    """How one tap of one call compares with the exact result; ratios are measured / allowed, and pass up to 1.

    `tail` is the worst element's error over its fence, `bulk` the root mean square of errors over what honest rounding
    gives, `systematic` what all elements err in common, along several directions. `excess` is the largest error beyond
    one rounding to the recorded dtype, in units of float32 roundings of the operation. `index` points at the worst
    element; `problem` says what is wrong where no number can.
    `undecided` marks a tap of which no element could be compared because a hidden choice of experts may go either way.
    `expected` is the golden value at the worst element, `histogram` counts errors / fences by the bins of
    `harness.measure.histogram.EDGES`, and `tokens` are the worst tokens beyond their fences. `waived` names the known
    deviation because of which the tap is not held to the specification; the figures are then those of what remains.
    """

    call: int
    tap: str
    num_elements: int
    tail: float = 0.0
    bulk: float = 0.0
    systematic: tuple[Systematic, ...] = ()
    excess: float = 0.0
    index: tuple[int, ...] = ()
    observed: float = math.nan
    exact: float = math.nan
    allowed: float = math.nan
    problem: str = ""
    note: str = ""
    undecided: bool = False
    expected: float = math.nan
    histogram: tuple[int, ...] = ()
    tokens: tuple[Element, ...] = ()
    waived: str = ""

    @property
    def kind(self) -> Kind:
        """What its problem is, by the word with which that begins."""
        return next((kind for kind in Kind if self.problem.startswith(kind)), Kind.OTHER)

    @property
    def is_finite(self) -> bool:
        """Whether all values that could be compared are finite."""
        return not self.problem.endswith(NOT_FINITE)

    @property
    def operation(self) -> str:
        """The operation that made the tap."""
        return split_tap(self.tap)[1]

    @property
    def layer(self) -> int | None:
        """The layer of the tap, None outside the layers."""
        return split_tap(self.tap)[0]

    @cached_property
    def ratio(self) -> float:
        """Measured / allowed of the worst statistic, infinite where no number can say it."""
        return math.inf if self.problem else max(self.tail, self.bulk, *(x.ratio for x in self.systematic))

    @property
    def num_beyond(self) -> int:
        """How many values are beyond their fences; 0 where no number can say it."""
        return sum(self.histogram[EDGES.index(1.0) + 1 :])

    @property
    def passed(self) -> bool:
        """Whether the tap is within its fences, or known to deviate."""
        return self.ratio <= 1.0 or bool(self.waived)


NOT_SCORED = np.uint32(0xFFFFFFFF)
"""A number that stands for no value: as bits it is not one."""


def widen(x: Array) -> Array:
    """Return a tap in float64; a signalling NaN becomes a quiet one without a warning."""
    with np.errstate(invalid="ignore"):
        return x.astype(np.float64)


def clean(x: Array, mask: Array | np.bool_) -> Array:
    """Return a tap in float64 with 0 wherever it is not compared, so that nothing there can influence what is."""
    return widen(np.where(mask, x, np.zeros((), x.dtype)))


def compare(pair: Pair) -> Comparison:
    """Compare an observed tap with its exact result."""
    ((_, found),) = compare_all([pair])
    return found


def compare_all(pairs: Iterable[Pair]) -> Iterator[tuple[Pair, Comparison]]:
    """Yield every pair with how it compares, in the order given; small ones of a kind are worked out together."""
    held: list[Pair] = []
    num_elements = 0
    for pair in pairs:
        held.append(pair)
        num_elements += pair.observed.size
        if num_elements > BATCH_SIZE:
            yield from zip(held, _compared(held), strict=True)
            held, num_elements = [], 0
    yield from zip(held, _compared(held), strict=True)


def _compared(pairs: Sequence[Pair]) -> list[Comparison]:
    """Return how each of some pairs compares."""
    found = [Comparison(*pair.key, 0) for pair in pairs]
    kinds: dict[Hashable, list[int]] = {}
    for i, pair in enumerate(pairs):
        if pair.observed.size:
            kinds.setdefault(kind_of(pair) if pair.observed.size <= BLOCK_SIZE else i, []).append(i)
    for places in kinds.values():
        alike = [pairs[i] for i in places]
        large = alike[0].observed.size > BLOCK_SIZE
        findings, directions = find_in(alike[0]) if large else find_each(block_of(alike), alike[0].recorded)
        systematic = conclude(directions, len(alike), alike[0].factor)
        for i, pair, one, each in zip(places, alike, findings, systematic, strict=True):
            found[i] = _concluded(pair, one, each)
    return found


def _concluded(pair: Pair, found: Findings, systematic: tuple[Systematic, ...]) -> Comparison:
    """Return how a pair compares, of which so much was found."""
    call, tap = pair.key
    observed, exact, shape = pair.observed, pair.exact, pair.observed.shape
    if not found.num_elements:
        return Comparison(call, tap, 0)
    index = tuple(map(int, np.unravel_index(found.first_bad if found.num_bad else found.worst, shape)))
    seen, wanted = float(observed[index]), float(exact.value[index])
    if found.num_bad:
        problem = f"{found.num_bad} of {found.num_elements} values are {NOT_FINITE}"
        return Comparison(call, tap, found.num_elements, index=index, observed=seen, exact=wanted, problem=problem)
    mask = np.broadcast_to(pair.mask, shape)
    tokens: tuple[Element, ...] = ()
    note = ""
    if found.tail > 1:
        grid = grid_of(observed[mask]) if pair.recorded == "float32" else ""
        note = f"the values lie on the grid of {grid}: rounded, though float32" if grid else ""
        allowed = blocks_of(pair)(slice(0, observed.size)).fence.allowed.reshape(shape)
        ratio = fence_ratio(np.where(mask, np.abs(observed - exact.value), 0.0), allowed)
        tokens = worst_tokens(ratio, observed, exact.value, allowed, pair.axes)
    by_token = None if pair.has_common else pair.axes
    bulk = found.bulk(num_tokens(mask, pair.axes) if by_token else None)
    return Comparison(
        call,
        tap,
        found.num_elements,
        tail=found.tail,
        bulk=found.bulk(num_distinct(exact.value, mask, pair.recorded, by_token)) if bulk > 1 else bulk,
        systematic=systematic,
        excess=found.excess,
        index=index,
        observed=seen,
        exact=wanted,
        allowed=found.allowed,
        note=note,
        histogram=found.counts,
        tokens=tokens,
    )


def num_tokens(mask: Array, axes: tuple[str, ...]) -> int:
    """Return in how many tokens, or slots of a cache, anything is compared; the mask has the axes of a tap."""
    return int(np.count_nonzero(mask.any(axes_within_token(axes))))


def axes_within_token(axes: tuple[str, ...]) -> tuple[int, ...]:
    """Return the places of a tap's axes that are neither rows nor tokens, nor the slots of a cache."""
    return tuple(i for i, axis in enumerate(axes) if axis not in ("b", "t") and not (axis == "s" and "t" not in axes))


def num_distinct(value: Array, mask: Array, recorded: str, by_token: tuple[str, ...] | None) -> int:
    """Return how many independent errors are as uncertain together as those of the values compared, rounded down.

    Values of the same magnitude err alike (`erring_alike`), tokens too where noise is common to all values of one
    (`by_token` gives the axes of the tap then): m_i equal ones of each kind count as (Σ m_i)² / Σ m_i² (Kish 1965,
    effective size).
    """
    scored = mask & (value != 0)  # a zero has nothing to round
    alike = np.where(scored, erring_alike(np.abs(value), recorded), NOT_SCORED)
    if by_token is None:
        found = np.unique(alike[scored], return_counts=True)[1]
    else:
        within = axes_within_token(by_token)
        rows = np.moveaxis(alike, within, range(-len(within), 0))
        rows = rows.reshape(-1, math.prod(alike.shape[i] for i in within))
        found = np.unique(rows[(rows != NOT_SCORED).any(-1)], axis=0, return_counts=True)[1]
    return int(found.sum() ** 2 // max(np.square(found).sum(), 1))


def compare_routing(
    call: int, tap: str, probabilities: Array, index: Array, mask: Array, slack: Array | float
) -> Comparison:
    """Judge chosen experts [b, t, c] by probabilities [b, t, e] that are known to within slack (SPEC §4.6).

    They must be distinct, within range, at least as probable as every expert left out, and most probable first. Scores
    equal to within slack may come in any order; where the specification's tie rule (lowest index) is not followed a
    note says so.
    """
    mask = mask[..., 0]  # [b, t]
    num_experts, num_chosen = probabilities.shape[-1], index.shape[-1]
    rows, chosen = probabilities[mask], index[mask].astype(np.int64)  # [n, e], [n, c]
    where = np.argwhere(mask)

    def at(bad: Array) -> tuple[int, ...]:
        return tuple(int(i) for i in where[int(np.argmax(bad))])

    count = int(mask.sum()) * num_chosen
    outside = ((chosen < 0) | (chosen >= num_experts)).any(-1)
    if outside.any():
        return Comparison(call, tap, count, index=at(outside), problem=f"expert outside 0..{num_experts - 1}")
    twice = np.array([len(set(row)) < num_chosen for row in chosen.tolist()], bool)
    if twice.any():
        return Comparison(call, tap, count, index=at(twice), problem="an expert is chosen twice for one token")
    errors = np.broadcast_to(slack, probabilities.shape)[mask]  # [n, e]
    highest, lowest = (np.take_along_axis(rows + sign * errors, chosen, -1) for sign in (1, -1))  # [n, c]
    rest = rows - errors
    np.put_along_axis(rest, chosen, -np.inf, -1)
    worse: Array = (highest < rest.max(-1)[:, None]).any(-1)
    if worse.any():
        row = int(np.argmax(worse))
        left, taken = int(rest[row].argmax()), ", ".join(f"{e} ({rows[row, e]:.3g})" for e in chosen[row])
        note = f"expert {left} has the score {rows[row, left]:.3g}; chosen were {taken}"
        return Comparison(call, tap, count, index=at(worse), problem="a more probable expert was left out", note=note)
    unordered: Array = np.any(highest[:, :-1] < lowest[:, 1:], axis=-1)
    if unordered.any():
        return Comparison(call, tap, count, index=at(unordered), problem="experts are not in order of probability")
    canonical = np.argsort(-rows, axis=-1, kind="stable")[:, :num_chosen]
    num_ties = int((canonical != chosen).any(-1).sum())
    note = f"{number_of(num_ties, 'ties')} not decided for the lowest index" if num_ties else ""
    return Comparison(call, tap, count, note=note)
