"""Hypotheses that an operation was applied to other weights: another layer's, another expert's, other scales."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial

import numpy as np

from grok_conformance.harness.contract import Array, Weights, tap_name
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial
from grok_conformance.harness.diagnosis.recomputed import reversed_along, shifted, with_inputs, with_weights
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.oracle import dequantized
from grok_conformance.harness.graph.rounding import WEIGHTS


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
            num_rows = stored[f"{name}.weight"].shape[-2]
            changes += [
                (f"of the row {'before' if step > 0 else 'after'}", partial(by_row, num_rows=num_rows, step=step))
                for step in (1, -1)
            ]
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


def by_row(scales: Array, num_rows: int, step: int) -> Array:
    """Return scales [.., k, n] of every row by itself, moved by some rows; those at the end keep their own."""
    places = np.clip(np.arange(num_rows) - step, 0, num_rows - 1)
    moved: Array = np.repeat(scales, num_rows // scales.shape[-2], -2)[..., places, :]
    return moved


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
