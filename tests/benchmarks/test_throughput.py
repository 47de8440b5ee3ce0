from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.checks.loaded_weights import WeightProblem
from grok_conformance.harness.judging.told import conformance_digest
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, Status
from grok_conformance.harness.report.files import report_of, write_report_json
from tests.benchmarks import throughput
from tests.benchmarks.presets import FAST_PORT, LOADS
from tests.benchmarks.throughput import (
    FEWEST_ROUNDS,
    NUM_DIGITS,
    SLOW,
    YARDSTICK,
    Entry,
    Times,
    both,
    companies,
    conformance_entries,
    fast_beside,
    main,
    measure,
    merged,
    ratio,
    speed,
    spread_of,
    table,
)
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import FAILING, PASSING, verdict


def entries(folder: Path, found: CandidateVerdict) -> dict[str, Entry]:
    """Return what the benchmark reads from the report of a verdict, by compute dtype."""
    write_report_json(folder / "run.json", report_of([found], golden()))
    return {entry.dtype: entry for entry in conformance_entries(folder / "run.json")}


def statuses(folder: Path, found: CandidateVerdict) -> tuple[str, str]:
    each = entries(folder, found)
    return each["bfloat16"].verdict, each["float32"].verdict


def case(dtype: str, status: Status) -> CaseVerdict:
    return CaseVerdict(case=f"unequal/prefill/padded_batch.{dtype}", status=status)


def test_every_result_carries_the_digest_by_which_the_harness_names_the_run(tmp_path: Path) -> None:
    found = verdict(PASSING)
    for entry in entries(tmp_path, found).values():
        assert entry.digest == conformance_digest(found)[:NUM_DIGITS]


@pytest.mark.parametrize("status", ["fail", "unsupported", "error", "inconclusive"])
def test_the_verdict_in_a_dtype_is_that_of_its_cases_alone(status: Status, tmp_path: Path) -> None:
    found = verdict(case("bfloat16", status), case("float32", "pass"))
    assert statuses(tmp_path, found) == (status, "pass")


def test_a_dtype_without_a_case_is_missing(tmp_path: Path) -> None:
    assert statuses(tmp_path, verdict(PASSING)) == ("pass", "missing")


def test_an_operation_that_fails_over_all_its_cases_fails_the_dtype_though_each_case_passes(tmp_path: Path) -> None:
    found = verdict(PASSING)
    rows = tuple(replace(row, status="fail") for row in verdict(FAILING).operations)
    assert statuses(tmp_path, replace(found, operations=rows)) == ("fail", "missing")


def test_weights_that_are_not_the_stored_ones_fail_every_dtype(tmp_path: Path) -> None:
    found = verdict(case("bfloat16", "pass"), case("float32", "pass"))
    wrong = (WeightProblem(preset="unequal", tensor="w", problem="differs"),)
    assert statuses(tmp_path, replace(found, weights=wrong)) == ("fail", "fail")


LEVELS = {YARDSTICK: 1.0, "fast": 0.25, "just_not_slow": SLOW, "slow": 1.25 * SLOW}
NAMES = tuple(LEVELS)


class ScriptedWorker:
    """Stands in for a process: every call takes the seconds of its entry, the first ones as if they compiled."""

    def __init__(self, entry: Entry, folder: Path) -> None:
        del folder
        self.seconds, self.times, self.num_calls = LEVELS[entry.name], Times(), 0

    def call(self, kind: str, tokens: Sequence[Sequence[int]]) -> float:
        del kind, tokens
        self.num_calls += 1
        return self.seconds if self.num_calls > 2 else 100.0

    def close(self) -> None:
        pass


def rounds_of(names: Sequence[str], num_rounds: int, monkeypatch: pytest.MonkeyPatch) -> dict[str, tuple[int, int]]:
    """Return how many prefills and decodes of every entry counted."""
    monkeypatch.setattr(throughput, "Worker", ScriptedWorker)
    entries = [Entry(name, "float32", "caches", "pass", "") for name in names]
    times = measure(entries, LOADS["bench"], Path(), num_rounds)
    return {entry.name: (len(each.rounds["prefill"]), len(each.rounds["decode"])) for entry, each in times.items()}


def test_who_is_slow_runs_the_fewest_rounds_however_long_the_first_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dict.fromkeys(NAMES, (5, 5)) | {"slow": (FEWEST_ROUNDS, FEWEST_ROUNDS)}
    assert rounds_of(NAMES, 5, monkeypatch) == expected
    assert rounds_of(NAMES[::-1], 5, monkeypatch) == expected


def test_without_a_yardstick_nobody_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rounds_of(("fast", "slow"), 3, monkeypatch) == {"fast": (3, 3), "slow": (3, 3)}


def test_one_round_is_one_round_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    assert rounds_of(NAMES, 1, monkeypatch) == dict.fromkeys(NAMES, (1, 1))


def prefills(*seconds: float) -> Times:
    return Times(first={"prefill": 9.0, "decode": 9.0}, rounds={"prefill": [*seconds], "decode": [*seconds]})


def test_a_slow_entry_is_held_against_the_rounds_that_it_ran() -> None:
    assert ratio(prefills(2.0, 4.0, 80.0, 80.0), prefills(10.0, 20.0), "prefill") == "0.2"


def test_a_ratio_on_both_sides_of_1_is_noise() -> None:
    assert ratio(prefills(2.0, 2.0, 2.0, 2.0), prefills(1.0, 3.0, 1.0, 3.0), "decode") == "noise"


def test_the_spread_says_over_how_many_rounds() -> None:
    assert spread_of(prefills(1.0, 2.0), "prefill")[:3] == ["2", "1.5000", "1.2500–1.7500"]


def test_a_speed_is_the_median_with_the_quartiles_from_slow_to_fast() -> None:
    assert speed(100, [1.0, 2.0, 4.0]) == "50 (33–67)"
    assert speed(100, [2.0]) == "50 (50–50)"


@pytest.mark.parametrize("words", [("--candidate", "torch_eagre"), ("--dtype", "float16")])
def test_who_was_not_judged_is_not_measured_and_nothing_is_written(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "run.json"
    write_report_json(report, report_of([verdict(PASSING)], golden()))
    monkeypatch.setattr("sys.argv", ["throughput", "--conformance", str(report), "--write", *words])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 2
    assert f"run.json: has no {words[1]}" in capsys.readouterr().err


def test_a_known_deviation_is_measured_and_named(tmp_path: Path) -> None:
    known = ("moe.expert_gate: gates_renormalised (*)",)
    shown = replace(case("float32", "waived"), waived=known)
    declined = replace(shown, case="dense/decode/dense_block.float32", status="unsupported")
    each = entries(tmp_path, verdict(shown, declined))["float32"]
    assert (each.verdict, each.deviations, each.is_measured) == (
        "waived",
        ("moe.expert_gate: gates_renormalised",),
        True,
    )


def test_who_fails_is_measured_as_a_peer_alone() -> None:
    assert not Entry("x", "float32", "caches", "fail", "").is_measured
    assert Entry("x", "float32", "–", "fail", "–", peer=True).is_measured


def entry(name: str, dtype: str = "float32") -> Entry:
    return Entry(name, dtype, "caches", "pass", "")


def test_all_of_one_dtype_run_together_or_each_beside_the_fast_port() -> None:
    fast, slow, other = entry(FAST_PORT), entry("slow"), entry("other")
    assert companies([fast, slow, other]) == [[fast, slow, other]]
    assert companies([slow, fast, other], FAST_PORT) == [[fast, slow], [fast, other]]
    assert companies([slow, entry(FAST_PORT, "bfloat16")], FAST_PORT) == []


def test_rounds_of_pairs_are_joined_and_each_is_held_against_the_fast_port_of_its_own() -> None:
    fast, slow, other = entry(FAST_PORT), entry("slow"), entry("other")
    runs = [{fast: prefills(1.0, 1.0), slow: prefills(3.0, 3.0)}, {fast: prefills(2.0, 2.0), other: prefills(3.0, 3.0)}]
    assert merged(runs)[fast].rounds["prefill"] == [1.0, 1.0, 2.0, 2.0]
    assert {each.name: both(*times) for each, times in fast_beside(runs, FAST_PORT).items()} == {
        "slow": "3.0 / 3.0",
        "other": "1.5 / 1.5",
    }


def test_the_table_names_deviations_and_how_far_the_fast_port_is_ahead() -> None:
    fast, peer = entry(FAST_PORT), replace(entry("tests/peer.py"), deviations=("moe.expert_hidden: gelu_fp16_table",))
    run = {fast: prefills(1.0, 1.0), peer: prefills(3.0, 3.0)}
    text = table([fast, peer], run, LOADS["bench"], fast_beside([run], FAST_PORT))
    assert (
        "| `peer` | float32 | caches | pass; moe.expert_hidden: gelu_fp16_table | 85 | 0.3 | – | 3.0 / 3.0 | `` |"
        in text
    )
    assert "| `torch_compiled` | float32 | caches | pass | 256 | 1.0 | – | – | `` |" in text
