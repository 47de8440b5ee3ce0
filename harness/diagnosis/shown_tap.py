"""One operation in one call as all that follows looks at it: what was shown, what is exact, and which values fail."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from grok_conformance.harness.checks.evidence import safe
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.hidden import Segments, simulate, widened
from grok_conformance.harness.checks.likelihood import FACTOR, NUM_DRAWS
from grok_conformance.harness.checks.operation_by_operation import fence_of_copy, unchanged_below
from grok_conformance.harness.checks.readings import reader
from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.by_expert import in_experts
from grok_conformance.harness.graph.forms import as_shown
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.oracle import cached_taps, consumed, empty_cache, scope_of, walk
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, WEIGHTS, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Operation, Scope
from grok_conformance.harness.measure.noise import Fence, fence_of

ID_DEVIATION = 0.05
"""The deviation of an id: it is right, or it is another one."""

TINY = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class ShownTap:
    """A tap of one call: float64 values as shown and exact, the deviation of honest noise, what is compared and fails.

    `values` are all taps of the call by name, and the caches before it as `previous:TAP`; `compared` and `wrong` are
    bool; every array has the shape of the tap.
    """

    exhibit: Exhibit
    call: int
    tap: str
    scope: Scope
    values: Mapping[str, Array]
    observed: Array
    exact: Array
    deviation: Array
    compared: Array
    wrong: Array

    @property
    def graph(self) -> ModelGraph:
        """The graph of the model."""
        return self.exhibit.evidence.graph

    @property
    def layer(self) -> int | None:
        """The layer of the tap, None outside the layers."""
        return split_tap(self.tap)[0]

    @property
    def operation(self) -> str:
        """The tap without its layer."""
        return split_tap(self.tap)[1]

    @property
    def axes(self) -> tuple[str, ...]:
        """The axis letters of the tap."""
        return self.graph.specs[self.operation].axes

    @property
    def recorded(self) -> str:
        """The dtype in which the tap is kept."""
        return self.exhibit.evidence.observed[self.call, self.tap].recorded

    @property
    def plan(self) -> RoundingPlan:
        """The rounding plan in force."""
        row = self.graph.operation_of(self.tap, self.scope.config)
        return self.exhibit.ways.plans.get(row.name, AS_PUBLISHED).in_call(self.scope.tokens.shape)

    @property
    def row(self) -> Operation:
        """The row of the graph that makes the tap."""
        return self.graph.computed_by(self.tap, self.scope.config, self.plan)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The taps that the row reads, in its order."""
        return self.graph.resolve_inputs(self.row.inputs, self.tap, self.scope.config)

    @property
    def matrices(self) -> tuple[str, ...]:
        """The stored names of the weights that the row reads, in its order."""
        return self.graph.stored_names(self.row, self.tap)

    def is_beyond(self, name: str) -> bool:
        """Return whether a tap comes after this one, so that nothing here can have read it."""
        names = self.graph.tap_names(self.scope.config)
        return name in names and names.index(name) >= names.index(self.tap)

    def weight(self, name: str) -> Array:
        """Return a weight in float64 as the row reads it."""
        return self.exhibit.weights.get(name, self.plan.at(WEIGHTS))

    def applied(
        self,
        inputs: Mapping[str, Array] | None = None,
        matrices: Mapping[str, Array] | None = None,
        scope: Scope | None = None,
    ) -> Exact:
        """Apply the row with some inputs (by tap), weights (by stored name) or the call changed."""
        if self.plan.hangs_on_experts:
            index = self.values[tap_name(split_tap(self.tap)[0], self.graph.choice)]
            return in_experts(self.plan, index, lambda plan: self.following(plan).applied(inputs, matrices, scope))
        called, given, held = scope or self.scope, inputs or {}, matrices or {}
        read = [
            consumed(given.get(name, self.values[name]), self.graph.is_real(name), called, self.plan)
            for name in self.inputs
        ]
        stored = [held[name] if name in held else self.weight(name) for name in self.matrices]
        return as_shown(self.tap, self.row.function(*read, *stored, scope=called, plan=self.plan), called)

    def following(self, plan: RoundingPlan) -> ShownTap:
        """Return the tap as it is where its row follows another plan."""
        row = self.graph.operation_of(self.tap, self.scope.config).name
        ways = self.exhibit.ways
        return replace(self, exhibit=replace(self.exhibit, ways=replace(ways, plans={**ways.plans, row: plan})))

    def deviation_of(self, exact: Exact) -> Array:
        """Return the deviation of honest noise about another result of the shape of the tap."""
        deviation = fence_of(exact, self.recorded, 1.0).deviation
        return np.full(self.observed.shape, ID_DEVIATION) if self.operation == self.graph.choice else deviation


def shown_taps(operation: str, exhibits: Sequence[Exhibit]) -> list[ShownTap]:
    """Return every tap of an operation that was shown in some cases, those that are right too."""
    return [shown for exhibit in exhibits for shown in _shown_in(operation, exhibit)]


def _shown_in(operation: str, exhibit: Exhibit) -> Iterator[ShownTap]:
    evidence, case, graph = exhibit.evidence, exhibit.case, exhibit.evidence.graph
    rows = {graph.operation_of(tap, evidence.config).name for tap in graph.tap_names(evidence.config)
            if split_tap(tap)[1] == operation}  # fmt: skip
    read, needed = reader(exhibit.ways.readings, evidence.recorded, num_draws=NUM_DRAWS), exhibit.needed(rows)
    segments = None if exhibit.hidden.isdisjoint(needed) else simulate(exhibit, read, NUM_DRAWS, needed)
    # What no check compares is shown too: a fault may let a masked key or a pad in.
    shown = {key: safe(seen.raw, seen.num_experts) for key, seen in evidence.observed.items()}
    cache = case.preload or empty_cache(evidence.config, len(case.calls[0].tokens))
    values = [dict(cached_taps(graph, cache)), *({} for _ in case.calls[1:])]

    def keep(call: int, tap: str, value: Array) -> None:
        values[call][tap] = value
        if call + 1 < len(values) and split_tap(tap)[1] in graph.copies:
            values[call + 1]["previous:" + tap] = value

    for key, value in shown.items():
        keep(*key, value)
    made: list[tuple[int, str, Exact]] = []
    for call, tap, exact, value in walk(
        exhibit.preset,
        case,
        lambda call, tap: shown.get((call, tap)),
        weights=exhibit.weights,
        plans=exhibit.ways.plans,
        evaluator=read,
        only=needed,
    ):
        keep(call, tap, value)
        if split_tap(tap)[1] == operation and (call, tap) in evidence.observed:
            made.append((call, tap, exact))
    for call, tap, exact in made:
        yield _compared(exhibit, (call, tap), exact, values[call], segments)


def _compared(
    exhibit: Exhibit, key: tuple[int, str], exact: Exact, values: Mapping[str, Array], segments: Segments | None
) -> ShownTap:
    evidence, (call, tap) = exhibit.evidence, key
    layer, operation = split_tap(tap)
    graph, seen = evidence.graph, evidence.observed[key]
    mask = np.broadcast_to(evidence.masks[call, operation], seen.raw.shape)
    fence = fence_of(exact, seen.recorded, FACTOR)
    if operation in graph.copies:
        fence = fence_of_copy(exact, fence, seen.recorded, unchanged_below(exhibit, call), evidence.config)
    if segments is not None:
        noise, axes = segments.deviation.get(key), graph.specs[operation].axes
        mask = mask & segments.decided(key, seen.raw, axes)
        fence = fence if noise is None else widened(fence, noise, FACTOR)
    if operation == graph.choice:
        wrong = other_choice(exact.value, seen.raw, values.get(tap_name(layer, graph.scores)))
        fence = Fence(fence.allowed, np.full(seen.raw.shape, ID_DEVIATION), None, FACTOR)
    else:
        wrong = ~(np.abs(seen.raw - exact.value) <= fence.allowed)  # of what is not finite too
    return ShownTap(
        exhibit, call, tap, scope_of(exhibit.preset, exhibit.case, call), values, seen.raw, exact.value,
        fence.deviation, mask, mask & wrong,
    )  # fmt: skip


def other_choice(exact: Array, chosen: Array, scores: Array | None) -> Array:
    """Return where other experts are chosen than should be, those whose scores are equal to within rounding apart."""
    if scores is None or not np.all((chosen >= 0) & (chosen < scores.shape[-1])):
        return np.asarray(exact != chosen)
    best, taken = (np.take_along_axis(scores, x.astype(np.int64), -1) for x in (exact, chosen))
    return np.asarray(np.abs(best - taken) > 4 * UNIT_ROUNDOFF["float32"] * np.abs(best))


def noise_of(shown: ShownTap, deviation: Array, observed: Array) -> Array:
    """Return a deviation with the rounding of what was observed: what is much too large is rounded at its own size."""
    if shown.operation == shown.graph.choice:
        return deviation
    rounding = max(UNIT_ROUNDOFF[shown.recorded], UNIT_ROUNDOFF["float32"]) * np.abs(observed) / np.sqrt(3)
    widest: Array = np.maximum(deviation, rounding) + TINY
    return widest


def failing(taps: Collection[ShownTap]) -> list[ShownTap]:
    """Return the taps of which some value fails, the worst first."""
    return sorted((one for one in taps if one.wrong.any()), key=lambda one: -int(one.wrong.sum()))
