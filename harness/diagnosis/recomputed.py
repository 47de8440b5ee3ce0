"""Hypotheses that an operation was applied to something else: other inputs, another step, other keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.diagnosis.elementwise import beside, coarser, on_grid, told_as
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Make, Trial
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.graph.row import Exact

CHOICE = "choice"
"""The noun of the axis of the chosen experts."""

NUM_WINDOWS = 8
"""Windows of keys that are tried: not every failing tap has a query just beyond one."""

Override = Callable[[ShownTap], Mapping[str, Array]]
"""Gives for a tap the inputs, or the weights, that are other than they should be, by name."""


def with_inputs(override: Override) -> Make:
    """Return what the operation gives from some other inputs."""
    return lambda one: told(one, one.applied(inputs=override(one)))


def with_weights(override: Override) -> Make:
    """Return what the operation gives with some other weights."""
    return lambda one: told(one, one.applied(matrices=override(one)))


def told(one: ShownTap, exact: Exact) -> tuple[Array, Array]:
    """Return a result and its deviation."""
    return exact.value, one.deviation_of(exact)


def from_other_inputs(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives from every other tap of the shape of an input."""
    first, specs = trial.shown, trial.shown.graph.specs
    near = (None, first.layer, (first.layer or 0) - 1)
    for i, name in enumerate(first.inputs):
        axes = letters_of(first.graph, name)
        for other, x in first.values.items():
            if other == name or x.shape != first.values[name].shape or first.is_beyond(other):
                continue
            layer, operation = split_tap(other.removeprefix("previous:"))
            if specs[operation].axes != axes or layer not in near or not first.graph.is_real(other):
                continue

            def made(one: ShownTap, i: int = i, other: str = other) -> Mapping[str, Array]:
                return {one.inputs[i]: one.values[beside(one, first, other)]}

            yield Hypothesis(f"right for {told_as(other, first)} in place of {told_as(name, first)}", with_inputs(made))


def from_changed_inputs(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives from an input that is zero, negated, or shifted by one along an axis."""
    specs = trial.shown.graph.specs
    for i, name in enumerate(trial.shown.inputs):
        operation = split_tap(name.removeprefix("previous:"))[1]
        for words, change in input_changes(trial.shown, specs[operation].axes, is_real=trial.shown.graph.is_real(name)):

            def made(one: ShownTap, i: int = i, change: Callable[[Array], Array] = change) -> Mapping[str, Array]:
                return {one.inputs[i]: change(one.values[one.inputs[i]])}

            yield Hypothesis(f"right for {operation} {words}", with_inputs(made))


def without_some_experts(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the experts' sum is without one or all of the chosen ones, whichever fits each token."""
    graph = trial.shown.graph
    gated = [i for i, name in enumerate(trial.shown.inputs) if graph.noun(letters_of(graph, name)[-1]) == CHOICE]
    if trial.shown.operation == graph.choice or len(gated) == 0 or graph.noun(trial.shown.axes[-1]) == CHOICE:
        return
    i = gated[0]

    def make(one: ShownTap) -> tuple[Array, Array]:
        gates = one.values[one.inputs[i]]
        kept = [np.arange(gates.shape[-1]) != left_out for left_out in range(gates.shape[-1])]
        made = [told(one, one.applied(inputs={one.inputs[i]: gates * some})) for some in (*kept, np.zeros_like(gates))]
        off = np.stack([np.abs(value - one.observed).max(-1) for value, _ in made])  # [subsets, b, t]
        nearest = off.argmin(0)[None, ..., None]
        value, deviation = (np.take_along_axis(np.stack(each), nearest, 0)[0] for each in zip(*made, strict=True))
        return value, deviation

    yield Hypothesis("right without one of the chosen experts, or without any", make, free=1)


def letters_of(graph: ModelGraph, name: str) -> tuple[str, ...]:
    """Return the axis letters of an input."""
    return graph.specs[split_tap(name.removeprefix("previous:"))[1]].axes


def input_changes(
    shown: ShownTap, axes: tuple[str, ...], *, is_real: bool
) -> Iterator[tuple[str, Callable[[Array], Array]]]:
    """Yield how an input may be changed, in words and as a function."""
    if is_real:
        yield "taken as zero", np.zeros_like
        yield "with the opposite sign", np.negative
        yield "taken as one", np.ones_like
        yield f"taken as the same for all {shown.graph.noun(axes[-1])}s", evenly_shared
    for axis, letter in enumerate(axes):
        noun = shown.graph.noun(letter)
        for step in (1, -1):
            yield f"shifted by {step} along its {noun}s", shifted(step, axis)
        yield f"in the reverse order of its {noun}s", reversed_along(axis)


def evenly_shared(x: Array) -> Array:
    """Return 1 over the number of places along the last axis, everywhere."""
    return np.full_like(x, 1 / x.shape[-1])


def from_rounded_operands(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives from inputs, weights or both that are rounded to a coarser grid."""
    shown = trial.shown
    real = [i for i, name in enumerate(shown.inputs) if shown.graph.is_real(name)]
    kept = [shown.exhibit.evidence.recorded[split_tap(shown.inputs[i].removeprefix("previous:"))[1]] for i in real]
    finest = min((UNIT_ROUNDOFF[dtype] for dtype in kept), default=UNIT_ROUNDOFF["float32"])
    for grid in coarser(finest if not shown.matrices else UNIT_ROUNDOFF["float32"]):
        for words, inputs, weights in (
            ("its inputs", real, False), ("its weights", [], True), ("its inputs and weights", real, True),
        ):  # fmt: skip
            if (weights and not shown.matrices) or (not inputs and not weights):
                continue

            def make(
                one: ShownTap,
                grid: str = grid,
                inputs: list[int] = inputs,
                weights: bool = weights,  # noqa: FBT001
            ) -> tuple[Array, Array]:
                names = [one.inputs[i] for i in inputs]
                return told(one, one.applied(
                    {name: on_grid(one.values[name], grid) for name in names},
                    {name: on_grid(one.weight(name), grid) for name in one.matrices} if weights else None,
                ))  # fmt: skip

            yield Hypothesis(f"right for {words} rounded to {grid} before it is computed", make)
        for i in real if len(real) > 1 else []:

            def made(one: ShownTap, i: int = i, grid: str = grid) -> Mapping[str, Array]:
                return {one.inputs[i]: on_grid(one.values[one.inputs[i]], grid)}

            name = split_tap(shown.inputs[i])[1]
            yield Hypothesis(f"right for {name} rounded to {grid} before it is computed", with_inputs(made))


def shifted(step: int, axis: int) -> Callable[[Array], Array]:
    """Return a shift along an axis, what leaves at one end entering at the other."""
    return lambda x: np.roll(x, step, axis)


def reversed_along(axis: int) -> Callable[[Array], Array]:
    """Return the reversal of an axis."""
    return lambda x: np.flip(x, axis)


def at_another_step(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives at other cache steps, or where other keys are seen."""
    steps: list[tuple[str, Callable[[Array], Array]]] = [
        ("the position after", lambda x: x + 1),
        ("the position before", lambda x: np.maximum(x - 1, 0)),
        ("positions from 0", np.zeros_like),
        ("the positions of the longest row", lambda x: np.full_like(x, x.max())),
        ("the positions of the shortest row", lambda x: np.full_like(x, x.min())),
        ("the positions of the other row", lambda x: x[::-1].copy()),
    ]
    for words, change in steps:

        def make(one: ShownTap, change: Callable[[Array], Array] = change) -> tuple[Array, Array]:
            moved = change(one.scope.steps).astype(one.scope.steps.dtype)
            seen = visible_keys(one.scope.config, one.scope.tokens, moved)
            return told(one, one.applied(scope=replace(one.scope, steps=moved, visible=seen)))

        yield Hypothesis(f"right for {words}", make)
    yield from in_a_window(trial)
    yield Hypothesis("right where every key is seen", lambda one: _seeing(one, np.ones_like(one.scope.visible)))
    yield Hypothesis(
        "right where the last key is not seen", lambda one: _seeing(one, np.roll(one.scope.visible, -1, -1))
    )


def in_a_window(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives where a query sees few keys alone, fewer than the first that fails does."""
    shown = trial.shown
    if not {"b", "t"} <= set(shown.axes) or not shown.wrong.any():
        return
    other = tuple(i for i, axis in enumerate(shown.axes) if axis not in "bt")
    seen = shown.scope.visible.sum(-1)[shown.wrong.any(other)]  # of the queries that fail
    largest = int(seen.min()) - 1
    for window in range(largest, max(largest - NUM_WINDOWS, 0), -1):
        yield Hypothesis(
            f"right where only the last {window} keys are seen", partial(_last_keys, window=window), free=1
        )


def _last_keys(one: ShownTap, window: int) -> tuple[Array, Array]:
    visible = one.scope.visible
    after = np.flip(np.cumsum(np.flip(visible, -1), -1), -1)  # how many are seen from a key on
    return _seeing(one, visible & (after <= window))


def _seeing(one: ShownTap, visible: Array) -> tuple[Array, Array]:
    return told(one, one.applied(scope=replace(one.scope, visible=visible)))
