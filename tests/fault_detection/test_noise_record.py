"""What the record tells of fences and of library functions is what this machine shows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from grok_conformance.harness.contract import Array, tap_specs
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.golden.noise_record import record_problems
from grok_conformance.harness.golden.reading import read_noise
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import fence_of
from tests.fault_detection import noise_record
from tests.fault_detection.honest_runs import Suite, judge_suite, rates_of
from tests.fault_detection.honest_variants import VARIANTS
from tests.fault_detection.noise_record import ENGINES, FUNCTIONS, fences, functions, record
from tests.harness.honest_port import golden


def committed() -> Any:
    return read_noise(golden())


def fence_difference(found: Mapping[str, Mapping[str, str]]) -> float:
    """Return by how much the fences differ at most from the committed ones, as a fraction."""
    known = committed()["fences"]
    assert found.keys() == known.keys()
    pairs = [(float(found[row][dtype]), float(x)) for row, each in known.items() for dtype, x in each.items()]
    return max(abs(one - other) / max(other, 1.0) for one, other in pairs)


def test_every_honest_variant_was_run_for_the_record() -> None:
    assert committed()["validation"]["variants"] == sorted(VARIANTS)


def test_the_fences_are_those_of_the_record_for_every_operation_but_the_choice_of_experts() -> None:
    assert fence_difference(fences()) < 0.01
    assert committed()["fences"].keys() == {spec.operation for spec in tap_specs()} - {"moe.expert_index"}


def test_a_fence_that_is_widened_by_a_tenth_no_longer_fits_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def wider(exact: Exact, recorded: str, factor: float) -> Any:
        return fence_of(exact, recorded, 1.1 * factor)

    monkeypatch.setattr(noise_record, "fence_of", wider)
    assert fence_difference(fences()) > 0.05


def test_the_library_functions_of_every_engine_here_are_as_exact_as_their_operations_allow() -> None:
    found = functions()
    assert found.keys() == FUNCTIONS.keys() == committed()["functions"].keys()
    for name, function in found.items():
        assert function["allowed"] == committed()["functions"][name]["allowed"]
        for engine, error in function["measured"].items():
            assert float(error) < float(function["allowed"]), f"{name} of {engine}"


def test_a_coarse_library_function_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def coarse(x: Array) -> Array:
        return np.tanh(x) * np.float32(1 + 4e-7)

    monkeypatch.setitem(ENGINES, "numpy", {**ENGINES["numpy"], "tanh": coarse})
    assert float(functions()["tanh"]["measured"]["numpy"]) > 6


def test_whether_an_engine_flushes_subnormal_numbers_is_told() -> None:
    assert not noise_record.flushes_subnormals("numpy")


def test_a_record_of_too_few_runs_is_complete_but_vouches_for_nothing() -> None:
    made = record(rates_of([judge_suite(Suite("sums by the BLAS", 70), 1)]))
    validate(made, "noise")
    assert made["validation"]["variants"] == ["sums by the BLAS"]
    assert record_problems(made) == [
        f"6 honest runs in {dtype}, expected at least 64" for dtype in ("bfloat16", "float32")
    ]
