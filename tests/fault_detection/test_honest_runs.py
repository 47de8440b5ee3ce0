"""A reduced count of false alarms; `python -m tests.fault_detection.honest_runs` is the whole one."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.fault_detection import honest_runs, honest_suites
from tests.fault_detection.honest_runs import Extreme, Run, Suite, SuiteResult, judge_suite, rates_of
from tests.fault_detection.honest_variants import VARIANTS, in_numpy
from tests.fault_detection.numpy_port import Arithmetic, blas
from tests.fault_detection.rates import clopper_pearson


@pytest.fixture(scope="module")
def results() -> list[SuiteResult]:
    names = ("sums one after the other", "8 partial sums rounded", "nothing inside rounded", "torch eager")
    return [judge_suite(Suite(name, seed), 1) for seed, name in enumerate(names, 50)]


def test_no_honest_run_is_failed(results: list[SuiteResult]) -> None:
    rates = rates_of(results)
    assert rates.num_runs == 48
    assert rates.alarms == ()
    assert (rates.num_run_alarms, rates.num_suite_alarms) == (0, 0)
    assert rates.suite_alarms.high == pytest.approx(1 - 0.025 ** (1 / 4))
    assert {(x.preset, x.fprop_dtype): (x.num_alarms, x.num_runs) for x in rates.by_case} == {
        (preset, dtype): (0, 4) for preset in honest_suites.PRESETS for dtype in honest_runs.DTYPES
    }


def test_every_operation_and_statistic_is_counted_and_none_is_idle(results: list[SuiteResult]) -> None:
    worst = {(one.operation, one.fprop_dtype, one.statistic): one.ratio for one in rates_of(results).extremes}
    assert worst["attention.output", "bfloat16", "tail"] > 0.5
    assert worst["router.logits", "float32", "bulk"] > 0.05
    assert 0 < worst["moe.expert_output", "float32", "pooled"] < 1
    assert 0.01 < worst["logits", "bfloat16", "end_to_end"] < 1


def test_a_variant_that_is_not_honest_is_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    sloppy = in_numpy(Arithmetic(product=lambda a, b: blas(a, b) * (1 + 2e-5)))
    monkeypatch.setitem(VARIANTS, "sloppy", sloppy)
    found = judge_suite(Suite("sloppy", 60), 1)
    assert found.suite_failed
    assert len(found.alarms) >= 6  # every float32 case
    rates = rates_of([found])
    assert rates.num_run_alarms == sum(run.failed for run in found.runs) >= 6
    lines = list(honest_runs.lines_of(rates))
    assert lines[: len(found.alarms)] == list(found.alarms)
    assert any(re.fullmatch(r"honest dense in float32 failed: 1 of 1, 95 % bounds .* to 1", line) for line in lines)
    assert any(line.startswith("honest suites failed: 1 of 1,") for line in lines)


def test_the_rate_of_a_case_counts_its_own_runs() -> None:
    runs = [Run("a", "float32", failed) for failed in (True, False, False)] + [Run("a", "bfloat16", failed=False)]
    narrow, wide = sorted(honest_runs.rates_by_case(runs), key=lambda rate: rate.fprop_dtype)
    assert (wide.preset, wide.fprop_dtype, wide.num_alarms, wide.num_runs) == ("a", "float32", 1, 3)
    assert wide.alarms == clopper_pearson(1, 3)
    assert (narrow.num_alarms, narrow.num_runs) == (0, 1)


def test_of_equal_extremes_that_of_the_first_suite_counts(results: list[SuiteResult]) -> None:
    one, two, three = (
        replace(results[0], extremes=(Extreme("logits", "float32", "tail", ratio, variant),))
        for ratio, variant in ((0.25, "one"), (0.5, "two"), (0.5, "three"))
    )
    assert rates_of([one, two, three]).extremes == two.extremes
    assert rates_of([three, two, one]).extremes == three.extremes


@pytest.mark.parametrize(("ratio", "rounded"), [(0.0, 0.0), (0.5, 0.5), (0.12341, 0.1235), (math.inf, math.inf)])
def test_a_ratio_is_rounded_up(ratio: float, rounded: float) -> None:
    assert honest_runs.rounded_up(ratio) == rounded


def test_the_bounds_are_those_of_clopper_and_pearson() -> None:
    assert clopper_pearson(0, 100) == pytest.approx((0.0, 0.0362), abs=1e-4)
    assert clopper_pearson(5, 100) == pytest.approx((0.0164, 0.1128), abs=1e-4)
    assert clopper_pearson(100, 100) == pytest.approx((0.9638, 1.0), abs=1e-4)


def test_suites_are_drawn_until_there_are_enough_runs_with_every_variant_before_a_second_seed() -> None:
    suites = honest_runs.suites_for(2000, 3)
    assert {suite.variant for suite in suites if suite.seed == 0} == set(VARIANTS)
    assert sum(len(suite.presets) for suite in suites) * 3 * 2 >= 2000


def test_the_near_ties_are_as_near_as_in_grok_1() -> None:
    gaps = []
    for seed in range(3):
        for taps in honest_suites.golden_taps("near_ties", "float32", seed, 3).values():
            for key, x in taps.items():
                if key.endswith("router.probabilities"):
                    ordered = -np.sort(-x, axis=-1)
                    gaps.append((ordered[..., 1] - ordered[..., 2]).ravel())
    assert 0.004 < np.median(np.concatenate(gaps)) <= 0.006
