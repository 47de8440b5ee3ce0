"""Weights scaled from 1e-30 to 1e30: honest ports pass, or the weights are refused with a reason; no fence is NaN."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.golden.consistency import value_problems
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import Group, read_groups
from grok_conformance.harness.judging.narrowing import Narrow
from grok_conformance.harness.running.in_process import adapter_of
from grok_conformance.harness.sessions.in_process import judge_adapter

PRESETS = (
    *("dense", "float32_scales", "float_weights", "realistic", "square", "square_stress", "stress", "ties", "unequal"),
)

SCALES, SCALES_THOROUGH = (1e-24, 1e20), (1e-30, 1e-20, 1e-10, 1e10, 1e20, 1e30)

ALLOWED = {"pass", "unsupported", "inconclusive"}


def smallest(preset: str) -> Group:
    """Return the golden case of a preset with the fewest tokens."""
    groups = read_groups(open_golden(GOLDEN), f"{preset}/*")
    pairs = [(group, case) for group in groups for case in group.cases]
    group, case = min(pairs, key=lambda pair: sum(call.tokens.size for call in pair[1].calls))
    return replace(group, cases=(case,))


def scaled(group: Group, scale: float) -> Group:
    """Return a group whose weights, all but integers, are so many times as large, as far as their dtypes reach."""

    def times(x: np.ndarray) -> np.ndarray:
        if x.dtype == np.int8:
            return x
        with np.errstate(over="ignore", under="ignore"):
            return (x.astype(np.float64) * scale).astype(x.dtype)

    weights = {name: times(np.asarray(x)) for name, x in group.preset.weights.items()}
    return replace(group, preset=replace(group.preset, weights=weights), expected=lambda _case: {})


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try all presets and scales in a thorough run, two otherwise."""
    thorough = metafunc.config.getoption("--thorough")
    if "scale" in metafunc.fixturenames:
        metafunc.parametrize("scale", SCALES_THOROUGH if thorough else SCALES)
        metafunc.parametrize("preset", PRESETS if thorough else ("square_stress",))
        metafunc.parametrize("candidate", ("numpy_float64", "torch_eager"))


def test_an_honest_port_passes_whatever_the_scale(candidate: str, preset: str, scale: float) -> None:
    if candidate == "torch_eager":
        pytest.importorskip("torch")
    group = scaled(smallest(preset), scale)
    if any(value_problems(group.preset.weights)):
        assert scale >= 1e9
        return
    verdict = judge_adapter(adapter_of(candidate), [group], Narrow()).verdict
    reasons = [case.reason for case in verdict.cases]
    assert all(case.status in ALLOWED for case in verdict.cases), reasons
    assert not any("nan times" in reason for reason in reasons), reasons
