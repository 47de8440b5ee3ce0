from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import Array
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.operations.experts import DENSE_GELU
from grok_conformance.harness.graph.oracle import ExactWeights, evaluate
from grok_conformance.harness.graph.rounding import ACCUMULATOR, AS_PUBLISHED, RESULT, SUMS, RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from grok_conformance.harness.graph.tensor_cores import TENSOR_CORE
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.sessions import one_way
from grok_conformance.harness.sessions.one_operation import OperationReport
from tests.harness.honest_port import golden_case, golden_taps


def golden_tap(operation: str, dtype: str) -> Array:
    return golden_taps(f"unequal/prefill/padded_batch.{dtype}")[f"call0/layers.01.{operation}"]


def check(operation: str, observed: Array, dtype: str = "bfloat16") -> OperationReport:
    preset, case = golden_case(f"unequal/prefill/padded_batch.{dtype}")
    taps, tap = golden_taps(case.id), f"layers.01.{operation}"
    row = GROK_1.operation_of(tap, preset.config)
    inputs = {
        name: taps[f"call0/{full}"]
        for name, full in zip(row.inputs, GROK_1.input_taps(tap, preset.config), strict=True)
    }
    weights = {
        short + part: preset.weights[full + part]
        for short, full in zip(row.weights, GROK_1.weight_names(tap, preset.config), strict=True)
        for part in ("", ".weight", ".scales")
        if full + part in preset.weights
    }
    return gc.check_operation(
        operation, inputs, observed, weights=weights, dtype=dtype, config=preset.config, tokens=case.calls[0].tokens
    )


def times(x: Array, factor: float) -> Array:
    scaled: Array = (x.astype(np.float32) * np.float32(factor)).astype(x.dtype)
    return scaled


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[RoundingPlan]:
    plans: list[RoundingPlan] = []
    compared_with = one_way.compared_with

    def keep(tap: str, scope: Scope, exhibit: Exhibit, values: Mapping[str, Array], plan: RoundingPlan) -> Comparison:
        plans.append(plan)
        return compared_with(tap, scope, exhibit, values, plan)

    monkeypatch.setattr(one_way, "compared_with", keep)
    return plans


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_output_of_the_experts_fails_without_what_another_way_would_read(dtype: str) -> None:
    report = check("moe.output", times(golden_tap("moe.output", dtype), 1.25), dtype)
    assert not report.passed
    assert "right values times 1.25" in str(report)


@pytest.mark.parametrize(("dtype", "factor"), [("float32", 1.001), ("bfloat16", 1.25)])
def test_partial_sums_are_tried_only_where_they_could_make_the_error(
    tried: list[RoundingPlan], dtype: str, factor: float
) -> None:
    assert not check("attention.output", times(golden_tap("attention.output", dtype), factor), dtype).passed
    assert not any(SUMS.name in plan.choices for plan in tried)


@pytest.mark.parametrize("sums", ["2 at once", "12 in turn", "8 by halving"])
def test_partial_sums_are_found(monkeypatch: pytest.MonkeyPatch, sums: str) -> None:
    made: list[Array] = []

    def keep(
        tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan = AS_PUBLISHED
    ) -> Exact:
        if not made:
            exact = evaluate(tap, scope, weights, values, AS_PUBLISHED.but(SUMS, sums))
            made.append(round_to(exact.value, "bfloat16"))
        return evaluate(tap, scope, weights, values, plan)

    monkeypatch.setattr(one_way, "evaluate", keep)
    right = golden_tap("attention.output", "bfloat16")
    check("attention.output", right)
    report = check("attention.output", made[0].astype(right.dtype))
    assert report.passed
    assert report.way == SUMS.choices[sums]


def test_a_wrong_choice_of_experts_is_told_without_warnings() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = check("moe.expert_index", (golden_tap("moe.expert_index", "float32") + 1) % 5, "float32")
    assert not report.passed


def test_choices_that_add_an_error_are_not_tried_without_more_data() -> None:
    plans = one_way.single_choices([DENSE_GELU, ACCUMULATOR])
    assert plans == [AS_PUBLISHED.but(DENSE_GELU, "kept")]


def test_one_choice_or_two_and_no_partial_sums() -> None:
    plans = one_way.single_choices([DENSE_GELU, RESULT, SUMS])
    assert plans == [
        AS_PUBLISHED.but(DENSE_GELU, "kept"),
        AS_PUBLISHED.but(RESULT, "rounded"),
        AS_PUBLISHED.but(DENSE_GELU, "kept").but(RESULT, "rounded"),
    ]


def test_what_is_slow_to_work_out_is_not_tried_with_everything_else() -> None:
    assert one_way.single_choices([TENSOR_CORE]) == []
