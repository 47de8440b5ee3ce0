"""The shape of a row of the fault table, and how a fault becomes an oracle that has it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from grok_conformance.harness.contract import Array, Weights, split_tap, tap_name
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.by_expert import in_experts
from grok_conformance.harness.graph.forms import as_shown
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, consumed, dequantized, evaluate
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, WEIGHTS, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Function, Scope

Kind = Literal["operation", "weights", "state", "execution", "precision"]

Reading = Callable[[Weights, str], Weights]
"""`reading(stored weights, name)` returns the stored leaf of that name as a faulty loader reads it."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a fault changes in one row of the graph; None and () leave it as it is.

    Another function, other inputs, another reading of the weights, or another idea of the call: its configuration, its
    cache steps, the keys that are seen, how it multiplies; or weights rounded once more, to `weights_in`, or those
    of int8 alone to `int8_in`. Layers before
    `first_layer` are right.
    """

    function: Function | None = None
    inputs: tuple[str, ...] = ()
    reading: Reading | None = None
    scope: Callable[[Scope], Scope] | None = None
    weights_in: str = ""
    int8_in: str = ""
    first_layer: int = 0


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the table.

    `title` says what is wrong, `remedy` tells its author what to change; `explanation` says what the specification asks
    for and what the fault does, `provenance` where it was met. `changes` are the rows of the graph that it replaces, by
    operation: where a comparison fed with the port's own inputs sees it. `shown_by` are globs of the golden cases that
    show it. `trigger` is a size of `judging/coverage.py` and the least at which it shows, None where any call does. A
    `harmless` one must not be called a fault. A `dose` below 1 moves every result only that part of the way.
    """

    id: str
    kind: Kind
    title: str
    remedy: str
    explanation: str
    provenance: str
    changes: Mapping[str, Change] = field(default_factory=dict)
    shown_by: tuple[str, ...] = ("unequal/prefill/padded_batch.*",)
    trigger: tuple[str, int] | None = None
    harmless: bool = False
    dose: float = 1.0

    @property
    def operations(self) -> tuple[str, ...]:
        """The operations at which it is first visible, by the names of their taps."""
        return tuple(dict.fromkeys("moe.output" if name == "dense.output" else name for name in self.changes))


def changes_at(*operations: str, function: Function | None = None, reading: Reading | None = None,
               scope: Callable[[Scope], Scope] | None = None) -> dict[str, Change]:  # fmt: skip
    """Return the same change at several operations."""
    return dict.fromkeys(operations, Change(function=function, reading=reading, scope=scope))


def change_of(fault: Fault, tap: str, weights: ExactWeights) -> Change | None:
    """Return what a fault changes at a tap, None where that is nothing."""
    change = fault.changes.get(weights.graph.operation_of(tap, weights.config).name)
    layer = split_tap(tap)[0] or 0
    return change if change is not None and layer >= change.first_layer else None


def mutant(fault: Fault) -> Evaluator:
    """Return an evaluator that has a fault."""

    def evaluate_faulty(
        tap: str,
        scope: Scope,
        weights: ExactWeights,
        values: Mapping[str, Array],
        plan: RoundingPlan = AS_PUBLISHED,
    ) -> Exact:
        change = change_of(fault, tap, weights)
        if change is None:
            return evaluate(tap, scope, weights, values, plan)
        faulty = apply(change, tap, scope, weights, values, plan)
        if fault.dose == 1.0:
            return faulty
        exact = evaluate(tap, scope, weights, values, plan)
        return replace(exact, value=exact.value + fault.dose * (faulty.value - exact.value))

    return evaluate_faulty


def apply(
    change: Change,
    tap: str,
    scope: Scope,
    weights: ExactWeights,
    values: Mapping[str, Array],
    plan: RoundingPlan,
) -> Exact:
    """Apply the changed operation of a tap to given inputs."""
    config, graph = scope.config, weights.graph
    if plan.hangs_on_experts:
        index = values[tap_name(split_tap(tap)[0], graph.choice)]
        return in_experts(plan, index, lambda one: apply(change, tap, scope, weights, values, one))
    row = graph.operation_of(tap, config)
    names = graph.resolve_inputs(change.inputs or row.inputs, tap, config)
    inputs = [consumed(values[name], graph.is_real(name), scope, plan) for name in names]
    matrices = [read(change, weights, name, plan.at(WEIGHTS)) for name in graph.weight_names(tap, config)]
    function, changed = change.function or row.function, change.scope(scope) if change.scope else scope
    return as_shown(tap, function(*inputs, *matrices, scope=changed, plan=plan), changed)


def read(change: Change, weights: ExactWeights, name: str, rounding: str) -> Array:
    """Return one weight in float64 as the changed operation reads it."""
    dtype = change.weights_in or (change.int8_in if f"{name}.scales" in weights.stored else "")
    if dtype:
        return round_to(weights.get(name, rounding), dtype)
    if change.reading is None:
        return weights.get(name, rounding)
    return dequantized(weights.config, change.reading(weights.stored, name), name, rounding, weights.graph)
