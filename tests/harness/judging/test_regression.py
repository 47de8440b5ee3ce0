"""What a run is said to have changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.judging.baseline import (
    append_history,
    read_history,
)
from grok_conformance.harness.judging.regression import IMPLAUSIBLE, MIN_RUNS, compare_runs, describe
from tests.harness.judging.kept_runs import KEY, OLD, ROUTE, STEADY, against, history_of, taking

AN_OLDER_VERSION = {"date": "2025-01-01", "cpu": "any", "cases": 2, "seconds": 4.0, "peak_bytes": 2**30}


def test_the_same_run_is_bit_for_bit_the_same_and_clean() -> None:
    found = against(OLD)
    assert (found.num_identical, found.num_taps, found.clean, found.notes) == (2, 2, True, ())


def test_changed_bits_of_an_operation_that_passes_are_within_fences_and_clean() -> None:
    found = against(replace(OLD, taps={**OLD.taps, KEY: "c"}))
    assert (found.within, found.beyond, found.clean) == (("attention.key bfloat16",), (), True)


def test_changed_bits_of_an_operation_that_fails_are_beyond_fences() -> None:
    failing: Any = {**OLD.operations, "attention.key bfloat16": "fail"}
    found = against(replace(OLD, taps={**OLD.taps, KEY: "c"}, operations=failing, status="fail"))
    assert (found.within, found.beyond, found.clean) == ((), ("attention.key bfloat16",), False)
    assert found.flags == ("the verdict was pass and is fail", "attention.key bfloat16 was pass and is fail")


def test_another_choice_of_experts_is_told_with_its_case() -> None:
    found = against(replace(OLD, taps={**OLD.taps, ROUTE: "c"}))
    assert found.rerouted == ("unequal.bfloat16/prefill",)
    assert "other experts chosen in unequal.bfloat16/prefill" in list(describe(found))


def test_an_operation_that_is_no_longer_shown_is_flagged() -> None:
    found = against(replace(OLD, operations={"attention.key bfloat16": "pass"}, taps={KEY: "a"}))
    assert found.flags == ("moe.expert_index bfloat16 is no longer shown",)
    assert found.notes == ("not in this run: 1 tap of the baseline",)


@pytest.mark.parametrize(("factor", "flagged"), [(1.0, False), (1.1, False), (2.0, True)])
def test_only_what_is_slower_by_more_than_the_measured_noise_is_flagged(factor: float, flagged: bool) -> None:  # noqa: FBT001
    found = against(taking(factor))
    assert bool(found.flags) == flagged
    if flagged:
        assert "2 times as slow as the baseline" in found.flags[0]


def test_a_run_that_stays_slow_is_flagged_every_time() -> None:
    history = STEADY
    for _ in range(4):
        found = against(taking(2.0), history)
        assert "2 times as slow as the baseline" in found.flags[0]
        history = found.history
    assert [each["flagged"] for each in history] == [False, False, False, True, True, True, True]


def test_a_slower_baseline_that_was_accepted_makes_times_no_noisier() -> None:
    accepted = taking(2.0)
    history = against(accepted, against(accepted).history, accepted).history
    assert "2 times as slow as the baseline" in against(taking(4.0), history, accepted).flags[0]


def test_noise_is_measured_from_runs_of_the_same_cases_on_the_same_cpu() -> None:
    others = tuple({**each, "cpu": "other"} for each in STEADY)
    renamed = replace(OLD, seconds={"one": 1.0, "three": 3.0})
    for earlier in (others, compare_runs(renamed, renamed, (), "2026-01-01").history * 3):
        assert against(taking(2.0), earlier).notes == (
            f"the noise of times is known from {MIN_RUNS} runs on: 1 so far",
        )


def test_noisy_times_allow_more_and_too_few_runs_say_nothing() -> None:
    slow, noisy = taking(2.0), history_of(1.0, 2.25, 0.5)
    assert against(slow, noisy).flags == ()
    few = against(slow, noisy[-1:])
    assert few.flags == ()
    assert few.notes == (f"the noise of times is known from {MIN_RUNS} runs on: 2 so far",)


def test_implausibly_fast_is_flagged_from_the_first_run_on() -> None:
    found = against(taking(1 / (2 * IMPLAUSIBLE)), ())
    assert found.flags == ("10 times as fast as the baseline: does it still compute?",)


def test_times_and_memory_of_another_platform_are_not_compared() -> None:
    found = against(replace(OLD, platform={"cpu": "other"}, seconds={"one": 99.0}, peak_bytes=2**40))
    assert found.flags == ()
    assert "another platform" in found.notes[0]


def test_more_memory_is_flagged() -> None:
    assert against(replace(OLD, peak_bytes=2**31)).flags == ("2048 MiB of memory, the baseline took 1024",)


def test_memory_of_other_cases_is_not_compared() -> None:
    found = against(replace(OLD, peak_bytes=2**31, seconds={**OLD.seconds, "three": 1.0}))
    assert found.flags == ()
    assert "the baseline ran other cases: memory is not compared" in found.notes


def test_only_the_compute_dtype_that_fails_is_beyond_fences() -> None:
    failing: Any = {"attention.key bfloat16": "fail", "attention.key float32": "pass"}
    single = KEY.replace("bfloat16", "float32")
    before = replace(OLD, operations=failing, status="fail", taps={KEY: "a", single: "a"})
    found = against(replace(before, taps={KEY: "a", single: "b"}), old=before)
    assert (found.within, found.beyond, found.clean) == (("attention.key float32",), (), True)


def test_a_history_of_an_older_version_is_kept_and_no_noise_is_taken_from_it(tmp_path: Path) -> None:
    for _ in range(3):
        append_history(tmp_path, "port", AN_OLDER_VERSION)
    found = against(taking(2.0), read_history(tmp_path, "port"))
    assert len(found.history) == 4
    assert found.notes == (f"the noise of times is known from {MIN_RUNS} runs on: 1 so far",)
