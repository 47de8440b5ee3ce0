"""Hypotheses that the right values stand elsewhere: along an axis, in another layer, call or tap."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np

from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.diagnosis.elementwise import beside, same_shape, told_as
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial, trial_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, noise_of

LARGEST_AXIS = 512
"""Places along an axis, or two axes taken as one, among which is looked for the right one."""

LARGEST_ERROR = 1e150
"""Errors beyond so many deviations are all alike: their squares are finite."""

MAX_PAIRS = 400_000
"""Pairs of a value and a place it may come from that are looked at for one axis."""


def along_an_axis(trial: Trial) -> Iterator[Hypothesis]:
    """Yield for every axis, and for two neighbours taken as one, the places from which the values are likeliest."""
    axes, shape = trial.shown.axes, trial.shown.observed.shape
    for i in range(len(axes)):
        if 1 < shape[i] <= LARGEST_AXIS:
            yield from _moved(trial, i, 1)
    for i in range(len(axes) - 1):
        apart = not {"b", "t", "s"} & {axes[i], axes[i + 1]}
        if apart and min(shape[i], shape[i + 1]) > 1 and shape[i] * shape[i + 1] <= LARGEST_AXIS:
            yield from _moved(trial, i, 2)


def merged(x: Array, axis: int, count: int) -> Array:
    """Return an array with some neighbouring axes taken as one."""
    return x.reshape(*x.shape[:axis], -1, *x.shape[axis + count :])


def origins(trial: Trial, axis: int, count: int) -> tuple[Array, Array]:
    """Return for every place along an axis the one from which its failing values are likeliest, and which fail."""
    shown = trial.shown
    exact, deviation = (merged(x, axis, count) for x in (shown.exact, shown.deviation))
    size = exact.shape[axis]
    at = trial.at[:: max(1, math.ceil(len(trial.at) * size / MAX_PAIRS))]
    index = list(np.unravel_index(at, exact.shape))
    others = tuple(index[:axis] + index[axis + 1 :])
    right, spread = (np.moveaxis(x, axis, -1)[others] for x in (exact, deviation))  # [n, size]
    seen = shown.observed.ravel()[at][:, None]
    error = np.minimum(np.abs(seen - right) / noise_of(shown, spread, seen), LARGEST_ERROR)
    cost = np.zeros((size, size))
    np.add.at(cost, index[axis], np.log1p(np.square(error)))
    source, moved = np.arange(size), np.unique(index[axis])
    source[moved] = cost[moved].argmin(-1)
    return source, moved


def _moved(trial: Trial, axis: int, count: int) -> Iterator[Hypothesis]:
    """Yield the likeliest place of origin of everything along an axis, or two neighbouring ones taken as one."""
    shown = trial.shown
    source, moved = origins(trial, axis, count)
    if (source == np.arange(len(source))).all():
        return
    letters = shown.axes[axis : axis + count]
    plural = " and ".join(shown.graph.noun(x) + "s" for x in letters)
    noun = shown.graph.noun(letters[0]) if count == 1 else "place"
    rule = pattern(source, moved)

    def make(one: ShownTap) -> tuple[Array, Array]:
        exact, deviation = (merged(x, axis, count) for x in (one.exact, one.deviation))
        taken = source
        if exact.shape[axis] != len(source):  # the rule holds for another number of places too
            taken, there = origins(trial_of(one), axis, count)
            if not rule or not pattern(taken, there):
                raise ValueError("no rule")
        value, spread = (np.take(x, taken, axis).reshape(one.exact.shape) for x in (exact, deviation))
        return value, spread

    free = 0 if rule else len(moved)
    permuted = len(set(source.tolist())) == len(source)
    yield Hypothesis(relocation(source, moved, plural, noun), make, free, relabels=permuted)


def pattern(source: Array, moved: Array) -> str:
    """Return the rule by which places of origin follow from the places, an empty string where there is none."""
    size, origin = len(source), source[moved]
    if len(moved) < 2:  # noqa: PLR2004 - one place follows any rule
        return ""
    steps = np.unique((moved - origin) % size)
    if len(steps) == 1:
        step = int(steps[0])
        return f"shifted by {step - size if step > size // 2 else step} along the "
    if (origin == size - 1 - moved).all():
        return "in the reverse order of the "
    if len(np.unique(origin)) == 1:
        return f"those of number {int(origin[0])} for all "
    for rows in range(2, size):
        if size % rows == 0 and (origin == moved % rows * (size // rows) + moved // rows).all():
            return f"laid out as {size // rows} × {rows} for {rows} × {size // rows} along the "
    return ""


def relocation(source: Array, moved: Array, plural: str, noun: str) -> str:
    """Return in words from where the values along an axis come."""
    origin = source[moved]
    if len(moved) == 1:
        return f"right for {noun} {int(origin[0])}, at {noun} {int(moved[0])}"
    if found := pattern(source, moved):
        return f"the right values {found}{plural}"
    if len(moved) == 2 and set(origin) == set(moved):  # noqa: PLR2004 - two exchanged
        return f"the right values with {noun}s {moved[0]} and {moved[1]} exchanged"
    if set(origin) == set(moved):
        return f"the right values in another order of the {plural}"
    return f"right for other {plural}"


def exchanged_axes(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values with two axes of equal size exchanged."""
    axes, shape = trial.shown.axes, trial.shown.observed.shape
    for i in range(len(axes)):
        for j in range(i + 1, len(axes)):
            if shape[i] == shape[j] > 1:
                yield Hypothesis(
                    f"the right values with the axes {axes[i]} and {axes[j]} exchanged",
                    partial(_exchanged, i=i, j=j),
                    relabels=True,
                )


def _exchanged(one: ShownTap, i: int, j: int) -> tuple[Array, Array]:
    return one.exact.swapaxes(i, j), one.deviation.swapaxes(i, j)


def as_it_is(x: Array) -> tuple[Array, Array]:
    """Return what was shown elsewhere, which nothing has rounded since."""
    return x, np.zeros_like(x)


def of_another_layer(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the same operation showed in another layer."""
    first = trial.shown
    for layer in range(first.scope.config.model.num_layers if first.layer is not None else 0):
        if layer != first.layer:
            away = layer - (first.layer or 0)
            yield Hypothesis(f"the values of layer {layer}", partial(_beside, away=away))


def _beside(one: ShownTap, away: int) -> tuple[Array, Array]:
    return as_it_is(one.values[tap_name((one.layer or 0) + away, one.operation)])


def of_another_tap(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the values of every other tap of the same axes: the operation was left out, or wired to another place."""
    first = trial.shown
    for name, _ in same_shape(first):
        if split_tap(name)[1] != first.operation:
            yield Hypothesis(
                f"the values of {told_as(name, first)}",
                partial(_other, first=first, name=name),
            )


def _other(one: ShownTap, first: ShownTap, name: str) -> tuple[Array, Array]:
    return as_it_is(one.values[beside(one, first, name)])


def of_an_earlier_call(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the same tap showed in an earlier call of the case: a buffer that was not filled anew."""
    if trial.shown.call:
        yield Hypothesis("the values of the call before (stale)", lambda one: _stale(one, one.call - 1))
        if trial.shown.call > 1:
            yield Hypothesis("the values of the first call (stale)", lambda one: _stale(one, 0))


def _stale(one: ShownTap, call: int) -> tuple[Array, Array]:
    earlier = one.exhibit.evidence.observed[call, one.tap].raw
    if earlier.shape == one.observed.shape:
        return as_it_is(earlier)
    axis = one.axes.index("t")  # the first tokens of a longer call, or as many as a shorter one had
    size = min(earlier.shape[axis], one.observed.shape[axis])
    value = one.exact.copy()
    at = tuple(slice(size) if i == axis else slice(None) for i in range(value.ndim))
    value[at] = earlier[at]
    return value, one.deviation
