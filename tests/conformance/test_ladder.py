"""Faults gated at every border of the ladder, one operation at each by turns: all are found, and honest ports pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.cases.ladder import SIZES, Rung, Size, rungs
from grok_conformance.harness.checks.exhibit import exhibit_of
from grok_conformance.harness.checks.operation_by_operation import check_case
from grok_conformance.harness.contract import Array, split_tap
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import AS_PUBLISHED, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from tests.harness.honest_port import INFO, NUM_ELEMENTS, noisy_taps

SEED = 1

GATED = ("attention.query", "attention.logits", "attention.output", "router.logits", "moe.output", "moe.norm", "logits")
"""The operations that have the faults, by turns along the borders of a size."""

BY_REQUEST = {"prompt": 1, "chunk": 1, "expert_tokens": 1, "batch": 0}
"""The axis of the tokens [b, t] that stands at the border; other sizes are those of the model or of the cache."""


def meets(size: Size, border: int, scope: Scope) -> bool:
    """Return whether a call meets the border."""
    if size.name in BY_REQUEST:
        return scope.tokens.shape[BY_REQUEST[size.name]] == border
    return size.name != "cache" or bool((np.asarray(scope.steps) == border).any())


def gated(rung: Rung, operation: str) -> Evaluator:
    """Return an evaluator that is 5 % off at the last position of one operation where the border is met."""

    def evaluate_gated(
        tap: str,
        scope: Scope,
        weights: ExactWeights,
        values: Mapping[str, Array],
        plan: RoundingPlan = AS_PUBLISHED,
    ) -> Exact:
        exact = evaluate(tap, scope, weights, values, plan)
        if split_tap(tap)[1] != operation or not meets(rung.size, rung.border, scope):
            return exact
        value = exact.value.copy()
        value[:, -1] *= 1.05
        return replace(exact, value=value)

    return evaluate_gated


def at_fault(rung: Rung, evaluator: Evaluator) -> set[str]:
    """Return the operations that fail in a port with an evaluator."""
    config = replace(rung.preset.config, fprop_dtype=rung.case.fprop_dtype)
    weights = ExactWeights(config, rung.preset.weights)
    taps = noisy_taps(rung.preset, rung.case, weights, 31, evaluator=evaluator)
    shown = exhibit_of(rung.preset, rung.case, INFO, taps, weights)
    return {found.operation for found in check_case(shown, num_elements=NUM_ELEMENTS) if not found.passed}


def rungs_of(size: Size) -> Iterator[tuple[Rung, str]]:
    """Yield the rungs of a size, each with the operation that has its fault."""
    for number, rung in enumerate(rung for rung in rungs(SEED) if rung.size == size):
        yield rung, GATED[(number + SIZES.index(size)) % len(GATED)]


@pytest.mark.parametrize("size", SIZES, ids=[size.name for size in SIZES])
def test_a_fault_gated_at_any_border_is_found_where_it_is_and_nothing_else_is(size: Size) -> None:
    found = {(rung.border, operation): at_fault(rung, gated(rung, operation)) for rung, operation in rungs_of(size)}
    assert found == {(border, operation): {operation} for border, operation in found}
    assert len(found) == len(size.borders)


@pytest.mark.parametrize("size", SIZES, ids=[size.name for size in SIZES])
def test_an_honest_port_passes_at_the_first_borders(size: Size) -> None:
    honest = {rung.border: at_fault(rung, evaluate) for rung, _ in rungs_of(size) if rung.border <= 33}
    assert honest == {border: set() for border in honest}
    assert honest


def test_there_are_more_than_60_gated_faults() -> None:
    assert len(list(rungs(SEED))) > 60
