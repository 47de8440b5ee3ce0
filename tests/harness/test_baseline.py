from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from harness.__main__ import main
from harness.baseline import (
    IMPLAUSIBLE,
    MIN_RUNS,
    Record,
    Regression,
    compare_runs,
    describe,
    read_baseline,
    write_baseline,
)
from tests.harness.test_main import CASE, GOOD

KEY = "unequal.bfloat16/prefill call0/layers.01.attention.key"
ROUTE = "unequal.bfloat16/prefill call0/layers.01.moe.expert_index"
OLD = Record(
    candidate="port",
    version="1",
    suite="1.0.0",
    digest="d",
    status="pass",
    platform={"cpu": "any"},
    operations={"attention.key bfloat16": "pass", "moe.expert_index bfloat16": "pass"},
    taps={KEY: "a", ROUTE: "b"},
    seconds={"one": 1.0, "two": 3.0},
    peak_bytes=2**30,
)


def line(seconds: float, cpu: str = "any") -> dict[str, Any]:
    return {"cpu": cpu, "cases": 2, "seconds": seconds, "date": "2026-01-01", "peak_bytes": 2**30}


STEADY = tuple(line(seconds) for seconds in (4.0, 4.1, 3.9))


def against(new: Record, history: tuple[Mapping[str, Any], ...] = (*STEADY, line(4.0))) -> Regression:
    return compare_runs(OLD, new, history)


def test_the_same_run_is_bit_for_bit_the_same_and_clean() -> None:
    found = against(OLD)
    assert (found.num_identical, found.num_taps, found.clean, found.notes) == (2, 2, True, ())


def test_changed_bits_of_an_operation_that_passes_are_within_fences_and_clean() -> None:
    found = against(replace(OLD, taps={**OLD.taps, KEY: "c"}))
    assert (found.within, found.beyond, found.clean) == (("attention.key",), (), True)


def test_changed_bits_of_an_operation_that_fails_are_beyond_fences() -> None:
    failing: Any = {**OLD.operations, "attention.key bfloat16": "fail"}
    found = against(replace(OLD, taps={**OLD.taps, KEY: "c"}, operations=failing, status="fail"))
    assert (found.within, found.beyond, found.clean) == ((), ("attention.key",), False)
    assert found.flags == ("the verdict was pass and is fail", "attention.key bfloat16 was pass and is fail")


def test_another_choice_of_experts_is_told_with_its_case() -> None:
    found = against(replace(OLD, taps={**OLD.taps, ROUTE: "c"}))
    assert found.rerouted == ("unequal.bfloat16/prefill",)
    assert "other experts chosen in unequal.bfloat16/prefill" in list(describe(found))


def test_an_operation_that_is_no_longer_shown_is_flagged() -> None:
    found = against(replace(OLD, operations={"attention.key bfloat16": "pass"}, taps={KEY: "a"}))
    assert found.flags == ("moe.expert_index bfloat16 is no longer shown",)
    assert found.notes == ("1 taps of the baseline are not in this run",)


@pytest.mark.parametrize(("factor", "flagged"), [(1.0, False), (1.1, False), (2.0, True)])
def test_only_what_is_slower_by_more_than_the_measured_noise_is_flagged(factor: float, flagged: bool) -> None:  # noqa: FBT001
    seconds = {case: factor * value for case, value in OLD.seconds.items()}
    found = against(replace(OLD, seconds=seconds), (*STEADY, line(4 * factor)))
    assert bool(found.flags) == flagged
    if flagged:
        assert "2 times as slow as the baseline" in found.flags[0]


def test_noisy_times_allow_more_and_too_few_runs_say_nothing() -> None:
    slow = replace(OLD, seconds={"one": 2.0, "two": 6.0})
    noisy = (line(4.0), line(9.0), line(2.0), line(8.0))
    assert against(slow, noisy).flags == ()
    few = against(slow, noisy[-2:])
    assert few.flags == ()
    assert few.notes == (f"the noise of times is known from {MIN_RUNS} runs on: 2 so far",)


def test_implausibly_fast_is_flagged_from_the_first_run_on() -> None:
    fast = replace(OLD, seconds={case: value / (2 * IMPLAUSIBLE) for case, value in OLD.seconds.items()})
    found = against(fast, (line(0.4),))
    assert found.flags == ("10 times as fast as the baseline: does it still compute?",)


def test_times_of_another_platform_are_not_compared() -> None:
    found = against(replace(OLD, platform={"cpu": "other"}, seconds={"one": 99.0}))
    assert found.flags == ()
    assert "another platform" in found.notes[0]


def test_more_memory_is_flagged() -> None:
    assert against(replace(OLD, peak_bytes=2**31)).flags == ("2048 MiB of memory, the baseline took 1024",)


def test_a_baseline_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_baseline(tmp_path, OLD)
    assert read_baseline(tmp_path, "port") == OLD


def test_a_run_is_compared_with_the_baseline_which_only_an_explicit_wish_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = tmp_path / "port.py"
    port.write_text(GOOD)
    kept = tmp_path / "kept"
    command = ["run", "--case", CASE, "--candidate", str(port), "--quiet", "--baseline", str(kept)]
    assert main(command) == 2
    assert "write it with --update-baseline" in capsys.readouterr().err
    assert main([*command, "--update-baseline"]) == 0
    (stored,) = kept.glob("*/baseline.json")
    before = stored.read_bytes()
    port.write_text(
        GOOD.replace("load\n", "load as load_right\n")
        + "def load(config, weights):\n"
        + "    name = 'transformer/decoder_layer_0/rms_norm_2/scale'\n"
        + "    return load_right(config, {**weights, name: 1 + weights[name]})\n"
    )
    capsys.readouterr()
    assert main(command) == 1
    output = capsys.readouterr().out
    assert "moved beyond fences: moe.norm" in output
    assert "look closer: the verdict was pass and is fail" in output
    assert stored.read_bytes() == before
    (history,) = kept.glob("*/history.jsonl")
    assert [json.loads(each)["status"] for each in history.read_text().splitlines()] == ["pass", "fail"]
    assert main([*command, "--update-baseline"]) == 1
    assert stored.read_bytes() != before


def test_updating_without_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--update-baseline"]) == 2
    assert "--update-baseline needs --baseline DIR" in capsys.readouterr().err
