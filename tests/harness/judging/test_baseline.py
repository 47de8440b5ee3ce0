from __future__ import annotations

import json
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.run_execution import earlier_runs
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.baseline import (
    IMPLAUSIBLE,
    MIN_RUNS,
    History,
    Record,
    Regression,
    append_history,
    compare_runs,
    describe,
    read_baseline,
    read_history,
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


def taking(factor: float) -> Record:
    """Return the baseline's run in so many times its time."""
    return replace(OLD, seconds={case: factor * seconds for case, seconds in OLD.seconds.items()})


def history_of(*factors: float) -> History:
    """Return the history of runs in so many times the time of the baseline, each compared with it."""
    history: History = ()
    for factor in factors:
        history = compare_runs(OLD, taking(factor), history, "2026-01-01").history
    return history


STEADY = history_of(1.0, 1.025, 0.975)


def against(new: Record, earlier: History = STEADY, old: Record = OLD) -> Regression:
    return compare_runs(old, new, earlier, "2026-01-02")


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
    assert found.notes == ("1 taps of the baseline are not in this run",)


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


def test_a_baseline_and_its_history_are_read_as_they_were_written(tmp_path: Path) -> None:
    write_baseline(tmp_path, OLD)
    for line in STEADY:
        append_history(tmp_path, "port", line)
    assert read_baseline(tmp_path, "port") == OLD
    assert read_history(tmp_path, "port") == STEADY
    assert read_history(tmp_path, "another_port") == ()


def test_runs_at_the_same_time_lose_no_line(tmp_path: Path) -> None:
    lines = [{**STEADY[0], "date": f"2026-01-{day:02}"} for day in range(1, 17)]
    with ThreadPoolExecutor(8) as runs:
        list(runs.map(lambda line: append_history(tmp_path, "port", line), lines))
    assert sorted(line["date"] for line in read_history(tmp_path, "port")) == [line["date"] for line in lines]


STORED = {"format": 1, **asdict(OLD)}
AN_OLDER_VERSION = {"date": "2025-01-01", "cpu": "any", "cases": 2, "seconds": 4.0, "peak_bytes": 2**30}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("baseline.json", '{"format": 1}'),
        ("baseline.json", "[1]"),
        ("baseline.json", "{"),
        ("baseline.json", json.dumps({**STORED, "format": 0})),
        ("baseline.json", json.dumps({**STORED, "surprise": 1})),
        ("baseline.json", json.dumps({**STORED, "status": "well"})),
        ("baseline.json", json.dumps({**STORED, "operations": {"logits float32": ["pass"]}})),
        ("baseline.json", json.dumps({**STORED, "seconds": {"one": "1"}})),
        ("history.jsonl", json.dumps(STEADY[0]) + "\n{"),
        ("history.jsonl", "[1]"),
        ("history.jsonl", json.dumps({**STEADY[0], "flagged": None})),
    ],
)
def test_a_file_that_holds_something_else_is_refused_in_one_line_until_it_is_written_again(
    name: str, text: str, tmp_path: Path
) -> None:
    write_baseline(tmp_path, OLD)
    (tmp_path / "port" / name).write_text(text)
    with pytest.raises(FileError) as caught:
        earlier_runs(tmp_path, ["port"], update=False)
    assert re.fullmatch(rf"{tmp_path}/port/{name}.*: write it again with --update-baseline", str(caught.value))
    assert earlier_runs(tmp_path, ["port"], update=True) == {
        "port": (None, ()) if name == "baseline.json" else (OLD, ())
    }


def test_a_history_of_an_older_version_is_kept_and_no_noise_is_taken_from_it(tmp_path: Path) -> None:
    for _ in range(3):
        append_history(tmp_path, "port", AN_OLDER_VERSION)
    found = against(taking(2.0), read_history(tmp_path, "port"))
    assert len(found.history) == 4
    assert found.notes == (f"the noise of times is known from {MIN_RUNS} runs on: 1 so far",)


def test_the_first_run_is_the_baseline_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = tmp_path / "port.py"
    port.write_text(GOOD)
    command = ["run", "--case", CASE, "--candidate", str(port), "--quiet", "--baseline", str(tmp_path / "kept")]
    assert main(command) == 0
    assert "this run is its baseline" in capsys.readouterr().out
    (stored,) = (tmp_path / "kept").glob("*/baseline.json")
    before = stored.read_bytes()
    assert main(command) == 0
    assert "this run is its baseline" not in capsys.readouterr().out
    assert stored.read_bytes() == before


def test_a_run_is_compared_with_the_baseline_which_only_an_explicit_wish_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = tmp_path / "port.py"
    port.write_text(GOOD)
    kept = tmp_path / "kept"
    command = ["run", "--case", CASE, "--candidate", str(port), "--quiet", "--baseline", str(kept)]
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
