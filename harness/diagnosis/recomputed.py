"""Hypotheses that an operation was applied to something else: other inputs, weights or scales, another step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from grok_conformance.harness.contract import Array, Weights, split_tap, tap_name
from grok_conformance.harness.diagnosis.elementwise import beside, coarser, on_grid, told_as
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Make, Trial
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.oracle import dequantized
from grok_conformance.harness.graph.rounding import WEIGHTS
from grok_conformance.harness.graph.row import Exact

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
        plain = name.removeprefix("previous:")
        axes = specs[split_tap(plain)[1]].axes
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


def with_weights_of_another_layer(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives with the weights of every other layer."""
    first = trial.shown
    for layer in range(first.scope.config.model.num_layers if first.layer is not None and first.matrices else 0):
        if layer != first.layer:

            def made(one: ShownTap, away: int = layer - (first.layer or 0)) -> Mapping[str, Array]:
                names = one.graph.stored_names(one.row, tap_name((one.layer or 0) + away, one.operation))
                return {own: one.weight(name) for own, name in zip(one.matrices, names, strict=True)}

            yield Hypothesis(f"right for the weights of layer {layer}", with_weights(made))


def with_weights_of_another_operation(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives with every other weight of the layer that has the shape of its own."""
    first = trial.shown
    rows = first.graph.rows_of(first.scope.config)
    for i, own in enumerate(first.matrices):
        for row in rows:
            for j, other in enumerate(first.graph.stored_names(row, first.tap) if first.layer is not None else ()):
                if other == own or first.weight(other).shape != first.weight(own).shape:
                    continue

                def made(one: ShownTap, i: int = i, row: str = row.name, j: int = j) -> Mapping[str, Array]:
                    there = one.graph.by_name[row]
                    return {one.matrices[i]: one.weight(one.graph.stored_names(there, one.tap)[j])}

                yield Hypothesis(f"right for the weights of {row.tap}", with_weights(made))


def with_changed_weights(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives with a weight transposed, shifted by one, reversed, or taken as ones."""
    first = trial.shown
    for i, name in enumerate(first.matrices):
        own = first.weight(name)
        changes: list[tuple[str, Callable[[Array], Array]]] = [("taken as ones", np.ones_like)]
        if own.ndim > 1 and own.shape[-1] == own.shape[-2]:
            changes.append(("transposed", lambda x: x.swapaxes(-1, -2)))
        for axis in range(own.ndim):
            what = "experts" if own.ndim > 2 and axis == 0 else f"axis {axis}"  # noqa: PLR2004
            changes += [(f"shifted by {step} along its {what}", shifted(step, axis)) for step in (1, -1)]
            changes.append((f"in the reverse order of its {what}", reversed_along(axis)))
        for words, change in changes:

            def made(one: ShownTap, i: int = i, change: Callable[[Array], Array] = change) -> Mapping[str, Array]:
                return {one.matrices[i]: change(one.weight(one.matrices[i]))}

            yield Hypothesis(
                f"right for {first.graph.below(name)[1].removeprefix('/')} {words}",
                with_weights(made),
            )


def with_changed_scales(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives with the scale groups of a weight shifted, reversed, or one of them left out."""
    first = trial.shown
    stored = first.exhibit.weights.stored
    for i, name in enumerate(first.matrices):
        if f"{name}.scales" not in stored:
            continue
        count = stored[f"{name}.scales"].shape[-2]
        changes: list[tuple[str, Callable[[Array], Array]]] = [("all taken as 1", np.ones_like)]
        if count > 1:
            changes += [(f"shifted by {step} group", shifted(step, -2)) for step in (1, -1)]
            changes.append(("in reverse order", lambda x: np.flip(x, -2)))
        for group in range(count if count > 1 else 0):
            changes.append((f"of group {group} taken as 0", partial(without, group=group)))
            changes.append((f"of group {group} taken from its neighbour", partial(neighbour, group=group)))
        for words, change in changes:

            def made(one: ShownTap, i: int = i, change: Callable[[Array], Array] = change) -> Mapping[str, Array]:
                own = one.matrices[i]
                held: Weights = one.exhibit.weights.stored
                read = {f"{own}.weight": held[f"{own}.weight"], f"{own}.scales": change(held[f"{own}.scales"])}
                return {own: dequantized(one.scope.config, read, own, one.plan.at(WEIGHTS), one.graph)}

            yield Hypothesis(f"right for scales {words}", with_weights(made))


def shifted(step: int, axis: int) -> Callable[[Array], Array]:
    """Return a shift along an axis, what leaves at one end entering at the other."""
    return lambda x: np.roll(x, step, axis)


def reversed_along(axis: int) -> Callable[[Array], Array]:
    """Return the reversal of an axis."""
    return lambda x: np.flip(x, axis)


def without(scales: Array, group: int) -> Array:
    """Return scales [.., G, n] with one group zero."""
    kept = np.array(scales)
    kept[..., group, :] = 0
    return kept


def neighbour(scales: Array, group: int) -> Array:
    """Return scales [.., G, n] with one group that of its neighbour."""
    kept = np.array(scales)
    kept[..., group, :] = kept[..., group - 1 if group else 1, :]
    return kept


def with_another_expert(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives for one expert in place of all, and for the experts next to the chosen."""
    first = trial.shown
    choice = tap_name(first.layer, first.graph.choice)
    if choice not in first.inputs:
        return
    count = first.scope.config.model.num_experts
    for expert in range(count):

        def made(one: ShownTap, expert: int = expert) -> Mapping[str, Array]:
            name = tap_name(one.layer, one.graph.choice)
            return {name: np.full_like(one.values[name], expert)}

        yield Hypothesis(f"right for expert {expert}", with_inputs(made))
    for step in (1, -1):

        def moved(one: ShownTap, step: int = step) -> Mapping[str, Array]:
            name = tap_name(one.layer, one.graph.choice)
            return {name: (one.values[name] + step) % count}

        yield Hypothesis(f"right for the expert {'after' if step > 0 else 'before'} the chosen one", with_inputs(moved))


def at_another_step(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives at other cache steps, or where other keys are seen."""
    del trial
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
    yield Hypothesis("right where every key is seen", lambda one: _seeing(one, np.ones_like(one.scope.visible)))
    yield Hypothesis(
        "right where the last key is not seen", lambda one: _seeing(one, np.roll(one.scope.visible, -1, -1))
    )


def _seeing(one: ShownTap, visible: Array) -> tuple[Array, Array]:
    return told(one, one.applied(scope=replace(one.scope, visible=visible)))
