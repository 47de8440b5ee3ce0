"""Hypotheses that an operation used the right value where another one is shown: what fails follows from the input."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from grok_conformance.harness.checks.likelihood import FACTOR, NUM_DRAWS
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.diagnosis.hypothesis import Hypothesis, Trial
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.oracle import evaluate
from grok_conformance.harness.measure.noise import disturb, fence_of


def from_right_inputs(trial: Trial) -> Iterator[Hypothesis]:
    """Yield what the operation gives from what an input should have been, where that is wrong: it follows from it."""
    for i, name in enumerate(trial.shown.inputs):
        if not name.startswith("previous:") and trial.shown.graph.is_real(name) and is_wrong(trial.shown, name):
            source = split_tap(name)[1]
            words = f"right for what {source} should have been, not for what it shows: this follows from {source}"
            yield Hypothesis(words, partial(_followed, i=i))


def is_wrong(one: ShownTap, name: str) -> bool:
    """Return whether an input that is shown strays from what it should have been."""
    evidence, operation = one.exhibit.evidence, split_tap(name)[1]
    right = evaluate(name, one.scope, one.exhibit.weights, one.values)
    allowed = fence_of(right, evidence.recorded[operation], FACTOR).allowed
    strays = np.abs(one.values[name] - right.value) > allowed
    return bool((strays & evidence.masks[one.call, operation]).any())


def _followed(one: ShownTap, i: int) -> tuple[Array, Array]:
    """Return what an operation gives from what an input should have been, and what that may honestly have been."""
    source = one.inputs[i]
    right = evaluate(source, one.scope, one.exhibit.weights, one.values)
    dtype = one.exhibit.evidence.recorded[split_tap(source)[1]]
    exact, random = one.applied(inputs={source: right.value}), np.random.default_rng(0)
    squares = np.zeros_like(exact.value)
    for _ in range(NUM_DRAWS):
        drawn = one.applied(inputs={source: disturb(right, dtype, random)})
        squares += np.square(drawn.value - exact.value) / NUM_DRAWS
    passed_on = np.sqrt(np.maximum(squares, squares.mean(-1, keepdims=True)))
    return exact.value, np.hypot(one.deviation_of(exact), passed_on)
