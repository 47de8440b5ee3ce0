"""Hypotheses that change every value by itself: multiplied, negated, zeroed, clipped, rounded, something added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from grok_conformance.harness.checks.likelihood import FACTOR
from grok_conformance.harness.contract import Array, split_tap, tap_name
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial, trial_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap, noise_of
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF, round_to

GRIDS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "TF32": 2.0**-11}
"""Grids to which a value may have been rounded once more, and their unit roundoffs."""

MIN_PER_FACTOR = 4
"""Values from which a factor of their own is fitted, at least."""

MIN_PER_SUM = 2
"""Values of a sum from which a factor of its own is fitted, in the mean: the more terms, the more is told by them."""

MIN_OF_FUNCTION = 50
"""Values by which it is told that they are a function of the right ones, at least."""

MIN_ON_GRID = 20
"""Values that must lie on a coarser grid for it to be told that they are kept in it: by chance none does."""

ROUNDINGS_KEPT = 8.0
"""As how many roundings to a coarser grid an error may be for it to be told as that."""

FUNCTION_FREEDOM = 10
"""As how many fitted numbers a function of unknown form counts."""

ADDED = 0.02
"""How far from 1 the coefficient of something added may be for it to be called that, as it is."""


def on_grid(x: Array, grid: str) -> Array:
    """Round to a grid and return float64; TF32 is float32 with 10 bits of mantissa."""
    if grid != "TF32":
        return round_to(x, grid)
    bits = x.astype(np.float32).view(np.uint32)
    nearest = (bits + np.uint32(0x0FFF) + ((bits >> np.uint32(13)) & np.uint32(1))) & np.uint32(0xFFFFE000)
    return np.asarray(nearest.view(np.float32).astype(np.float64))


def changed(words: str, change: Callable[[Array], Array], times: float = 1.0, free: int = 0) -> Hypothesis:
    """Return the hypothesis that every value is a function of the right one, whose noise grows so many times."""
    return Hypothesis(words, lambda one: (change(one.exact), abs(times) * one.deviation), free)


def simple(trial: Trial) -> Iterator[Hypothesis]:
    """Yield zero, the negative, the absolute value, negatives as zero, and 0 where there should be something."""
    del trial
    yield changed("zero", np.zeros_like, times=0)
    yield changed("the right values with the opposite sign", np.negative)
    yield changed("the absolute values of the right ones", np.abs)
    yield changed("the right values with negative ones as zero", lambda x: np.maximum(x, 0.0))


def scaled(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values times one fitted factor."""
    if (found := fitted(trial, trial.shown.exact, trial.shown.observed)) is not None:
        factor, error = found
        told = shortest(factor, error)
        yield changed(f"the right values times {told:g}", lambda x: x * told, factor, free=1)


def added(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values and one fitted constant; and so many times another tap that is at hand."""
    shown = trial.shown
    difference = shown.observed - shown.exact
    if (found := fitted(trial, np.ones_like(shown.exact), difference)) is not None:
        offset = shortest(*found)
        yield changed(f"the right values plus {offset:g}", lambda x: x + offset, free=1)
    for name, x in same_shape(shown):
        found = fitted(trial, x, difference)
        if found is None or abs(found[0]) < ADDED:
            continue
        times = shortest(*found)
        near, said = abs(abs(times) - 1) <= ADDED, told_as(name, shown)
        what = (
            f"with {said} {'added once more' if times > 0 else 'left out'}" if near else f"plus {times:g} times {said}"
        )
        factor = float(np.sign(times)) if near else times

        def make(one: ShownTap, name: str = name, factor: float = factor) -> tuple[Array, Array]:
            other = one.values[beside(one, trial.shown, name)]
            return one.exact + factor * other, one.deviation

        yield Hypothesis(f"the right values {what}", make, free=1)


def clipped(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values cut off at the largest size observed."""
    shown = trial.shown
    top = float(np.abs(shown.observed.ravel()[trial.at]).max(initial=0.0))
    if top > 0:
        yield changed(f"the right values cut off at ±{top:.4g}", lambda x: np.clip(x, -top, top), free=1)


def rounded_once_more(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values rounded to every grid coarser than that of the tap, or cut off towards zero."""
    for grid in coarser(UNIT_ROUNDOFF[trial.shown.recorded]):
        yield changed(f"the right values rounded to {grid} once more", partial(on_grid, grid=grid))

    def truncated(x: Array) -> Array:
        bits = x.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
        return np.asarray(bits.view(np.float32).astype(np.float64))

    yield from _kept_coarser(trial)
    if trial.shown.recorded in ("float32", "bfloat16"):
        yield changed("the right values cut off to bfloat16, not rounded", truncated)


def _kept_coarser(trial: Trial) -> Iterator[Hypothesis]:
    """Yield that all failing values are numbers of a coarser grid, a few of its roundings from the right ones."""
    observed = trial.shown.observed.ravel()[trial.at]
    for grid in coarser(UNIT_ROUNDOFF[trial.shown.recorded]):
        if len(observed) >= MIN_ON_GRID and np.array_equal(on_grid(observed, grid), observed):

            def make(one: ShownTap, grid: str = grid) -> tuple[Array, Array]:
                size = np.maximum(np.abs(one.exact), np.abs(one.observed))
                return one.exact, np.maximum(one.deviation, ROUNDINGS_KEPT * GRIDS[grid] * size / FACTOR)

            yield Hypothesis(f"numbers of {grid}: rounded to it more than once on the way", make, least=MIN_ON_GRID)


def of_the_right_value(trial: Trial) -> Iterator[Hypothesis]:
    """Yield that every value is a smooth function of the right one, whatever that is: neighbours tell it.

    Behind hidden operations that says nothing of the function, since the operands may be wrong.
    """
    if trial.shown.exhibit.is_behind_hidden(trial.shown.tap):
        return

    def make(one: ShownTap) -> tuple[Array, Array]:
        own = trial_of(one)
        right, seen = one.exact.ravel()[own.at], one.observed.ravel()[own.at]
        here, told, rise = between_neighbours(right, seen)
        value, deviation = one.observed.copy().ravel(), one.deviation.copy().ravel()
        value[own.at[here]] = told
        deviation[own.at[here]] = 2 * deviation[own.at[here]] + rise / (2 * FACTOR)
        return value.reshape(one.exact.shape), deviation.reshape(one.exact.shape)

    yield Hypothesis(
        "another function of the right values, each by itself", make, free=FUNCTION_FREEDOM, least=MIN_OF_FUNCTION
    )


def of_the_argument(trial: Trial) -> Iterator[Hypothesis]:
    """Yield that a function of one input is another one, where the right value is a product of it and something else.

    What is observed over what is right is then a smooth function of that input, the argument.
    """
    shown = trial.shown
    if shown.exhibit.is_behind_hidden(shown.tap) or shown.applied().argument is None:
        return

    def make(one: ShownTap) -> tuple[Array, Array]:
        own, argument = trial_of(one), np.asarray(one.applied().argument).ravel()
        right, seen = one.exact.ravel()[own.at], one.observed.ravel()[own.at]
        ratio = np.divide(seen, right, out=np.ones_like(seen), where=right != 0)
        here, told, rise = between_neighbours(argument[own.at], ratio)
        value, deviation = one.observed.copy().ravel(), one.deviation.copy().ravel()
        value[own.at[here]] = told * right[here]
        deviation[own.at[here]] = 2 * deviation[own.at[here]] + rise * np.abs(right[here]) / (2 * FACTOR)
        return value.reshape(one.exact.shape), deviation.reshape(one.exact.shape)

    yield Hypothesis(
        "another function of the argument, each by itself", make, free=FUNCTION_FREEDOM, least=MIN_OF_FUNCTION
    )


def between_neighbours(places: Array, values: Array) -> tuple[Array, Array, Array]:
    """Return which of some values [n] have a neighbour on either side, what lies between these, and how they differ.

    Neighbours are those whose places, real numbers [n], are next.
    """
    order = np.argsort(places, kind="stable")
    before, here, after = order[:-2], order[1:-1], order[2:]
    width = places[after] - places[before]
    share = np.where(width > 0, (places[here] - places[before]) / np.where(width > 0, width, 1.0), 0.5)
    return here, values[before] + share * (values[after] - values[before]), np.abs(values[after] - values[before])


def scaled_along(trial: Trial) -> Iterator[Hypothesis]:
    """Yield the right values times a fitted factor of their own for every place along an axis, or for every token."""
    axes = trial.shown.axes
    yield from (one for axis in axes if axis not in "bt" for one in _scaled_by(trial, axis))
    if "b" in axes and "t" in axes:
        yield from _scaled_by(trial, "bt")
        yield from _scaled_by(trial, "".join(axes[:-1]))


def _scaled_by(trial: Trial, letters: str) -> Iterator[Hypothesis]:
    shown, at = trial.shown, trial.at
    group, count = groups_of(shown, letters)
    sizes = np.bincount(group.ravel()[at], minlength=count)
    whole = len(letters) > 1 and letters != "bt"  # sums along the last axis, of which some have few terms
    fewest = sizes[sizes > 0].mean() if whole else sizes[sizes > 0].min()
    if fewest < (MIN_PER_SUM if whole else MIN_PER_FACTOR) or (sizes > 0).sum() < 2:  # noqa: PLR2004 - factors that differ
        return
    used = factors_of(shown, letters).ravel()[at]
    told = f"{used.min():.6g} to {used.max():.6g}"
    if whole:
        words = f"the right values normalised otherwise along the {shown.graph.noun(shown.axes[-1])}s: times {told}"
    else:
        noun = "token" if letters == "bt" else shown.graph.noun(letters)
        words = f"the right values times a factor of its own for every {noun}, {told}"

    def make(one: ShownTap) -> tuple[Array, Array]:
        factors = factors_of(one, letters)
        return one.exact * factors, one.deviation * np.abs(factors)

    yield Hypothesis(words, make, free=int((sizes > 0).sum()))


def factors_of(shown: ShownTap, letters: str) -> Array:
    """Return the factors that fit a tap's failing values, one for every place along some axes, in the tap's shape."""
    group, count = groups_of(shown, letters)
    spread = noise_of(shown, shown.deviation, shown.observed)
    used = shown.wrong & np.isfinite(shown.observed)
    own, right = group[used], (shown.exact / spread)[used]
    square = np.bincount(own, weights=right * right, minlength=count)
    both = np.bincount(own, weights=right * (shown.observed / spread)[used], minlength=count)
    return np.asarray(np.where(square > 0, both / np.where(square > 0, square, 1.0), 1.0)[group])


def groups_of(shown: ShownTap, letters: str) -> tuple[Array, int]:
    """Return which place along some axes an element has, int of the shape of the tap, and how many there are."""
    shape = shown.observed.shape
    sizes = [shape[shown.axes.index(axis)] for axis in letters]
    numbers = np.arange(int(np.prod(sizes))).reshape(sizes)
    shaped = numbers.reshape([shape[i] if axis in letters else 1 for i, axis in enumerate(shown.axes)])
    return np.broadcast_to(shaped, shape), numbers.size


def fitted(trial: Trial, x: Array, observed: Array) -> tuple[float, float] | None:
    """Return c of observed = c · x by weighted least squares on the trial's elements, and its standard error."""
    shown, at = trial.shown, trial.at
    spread = noise_of(shown, shown.deviation, shown.observed).ravel()[at]
    known, seen = np.broadcast_to(x, observed.shape).ravel()[at] / spread, observed.ravel()[at] / spread
    square = float(known @ known)
    if not square or not np.isfinite(square):
        return None
    factor = float(known @ seen) / square
    left = np.square(seen - factor * known)
    return factor, float(np.sqrt(np.square(known) @ left)) / square


def shortest(x: float, error: float) -> float:
    """Return the number with the fewest digits within three standard errors of another."""
    for digits in range(1, 6):
        short = float(f"{x:.{digits}g}")
        if abs(short - x) <= 3 * error:
            return short
    return x


def coarser(roundoff: float) -> list[str]:
    """Return the grids that are coarser than a unit roundoff."""
    return [grid for grid, unit in GRIDS.items() if unit > roundoff]


def same_shape(shown: ShownTap) -> Iterator[tuple[str, Array]]:
    """Yield the taps of real numbers of the same axes, but for the tap itself, that stand beside it or before it."""
    specs, config = shown.graph.specs, shown.scope.config
    for name in shown.graph.tap_names(config):
        layer, operation = split_tap(name)
        near = layer is None or layer in (shown.layer, (shown.layer or 0) - 1)
        fits = specs[operation].axes == shown.axes and shown.graph.is_real(name)
        if name != shown.tap and near and fits and name in shown.values:
            yield name, shown.values[name]


def told_as(name: str, shown: ShownTap) -> str:
    """Return how a tap is called beside another one: without its layer where that is the same."""
    layer, operation = split_tap(name.removeprefix("previous:"))
    earlier = " of the call before" if name.startswith("previous:") else ""
    return operation + earlier + ("" if layer in (None, shown.layer) else f" of layer {layer}")


def beside(one: ShownTap, first: ShownTap, name: str) -> str:
    """Return the tap that stands to one tap as a named one stands to another: so many layers away."""
    layer, operation = split_tap(name)
    if layer is None or first.layer is None or one.layer is None:
        return name
    return tap_name(layer + one.layer - first.layer, operation)
