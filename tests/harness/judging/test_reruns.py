from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.contract import Array
from grok_conformance.harness.faults import FAULTS, mutant
from grok_conformance.harness.judging.judge import Judged, judge_candidate
from grok_conformance.harness.judging.reruns import FIRST, hangs_on_concurrency, need_replay, with_causes, with_reruns
from grok_conformance.harness.judging.verdict import CaseVerdict
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import Answer, Repeated
from tests.harness.honest_port import INFO, NUM_ELEMENTS, answered, group_of, honest_taps

PREFILL = "unequal/prefill/padded_batch.float32"
DECODE = "unequal/decode/unequal_lengths.float32"

Reruns = Mapping[str, Mapping[str, Array]]


def judged(case_id: str, answer: Answer, replayed: Answer | None = None, *, causes: bool = False) -> CaseVerdict:
    """Judge one answer with its further runs and, if asked, name the cause; `replayed` is a fresh process's answer."""
    group, runs = group_of(case_id), HonestRuns()
    first = judge_candidate([group], [{case_id: answer}], NUM_ELEMENTS, runs)
    found: Sequence[Judged] = with_reruns([group], [{case_id: answer}], first, NUM_ELEMENTS, runs)
    assert need_replay(found) == (causes and not any(map(hangs_on_concurrency, found[0].verdicts)))
    if causes:
        found = with_causes(found, [{case_id: answer}], None if replayed is None else [{case_id: replayed}])
    return found[0].verdicts[0]


def logits_of(taps: Mapping[str, Array]) -> dict[str, Array]:
    return {key: x for key, x in taps.items() if key.partition("/")[2] == "logits"}


def garbled(taps: Mapping[str, Array]) -> dict[str, Array]:
    return {key: x * 100 if key.partition("/")[2] == "logits" else x for key, x in taps.items()}


def test_further_runs_with_the_same_bits_pass_and_are_not_judged(tmp_path: Path) -> None:
    taps = honest_taps(PREFILL, 31)
    verdict = judged(PREFILL, answered(tmp_path, taps, reruns={"again": taps, "later": taps}))
    assert (verdict.status, verdict.repeatable) == ("pass", True)
    assert [(run.name, run.status, run.bitwise) for run in verdict.runs] == [
        (FIRST, "pass", True), ("again", "pass", True), ("later", "pass", True),
    ]  # fmt: skip


def test_a_second_run_that_rounds_otherwise_passes_and_is_said_not_to_repeat(tmp_path: Path) -> None:
    verdict = judged(PREFILL, answered(tmp_path, honest_taps(PREFILL, 31), reruns={"again": honest_taps(PREFILL, 32)}))
    assert (verdict.status, verdict.repeatable, verdict.cause) == ("pass", False, "")


def test_without_a_second_run_it_is_neither_repeatable_nor_not(tmp_path: Path) -> None:
    verdict = judged(PREFILL, answered(tmp_path, honest_taps(PREFILL, 31)))
    assert (verdict.status, verdict.repeatable, verdict.runs) == ("pass", None, ())


@pytest.mark.parametrize(
    ("replayed", "cause"), [(True, "history"), (False, "randomness"), (None, "history or randomness")]
)
def test_a_wrong_second_run_fails_by_history_if_a_fresh_process_gives_it_too_and_by_randomness_if_not(
    tmp_path: Path, cause: str, *, replayed: bool | None
) -> None:
    taps = honest_taps(PREFILL, 31)
    answer = answered(tmp_path / "first", taps, reruns={"again": garbled(taps)})
    fresh = {True: answer, False: answered(tmp_path / "fresh", taps, reruns={"again": taps}), None: None}[replayed]
    verdict = judged(PREFILL, answer, fresh, causes=True)
    assert (verdict.status, verdict.cause) == ("fail", cause)
    assert verdict.reason.startswith(f"{cause}: run a second time: logits: ")


@pytest.mark.parametrize(
    ("alone", "cause"),
    [("the same", "concurrency"), ("another", "history or randomness"), ("unknown", "history or randomness")],
)
def test_a_server_that_fails_with_several_requests_alone_hangs_on_concurrency(
    tmp_path: Path, alone: str, cause: str
) -> None:
    taps = honest_taps(PREFILL, 31)
    once_more = {"the same": {"again": taps}, "another": {"again": honest_taps(PREFILL, 32)}, "unknown": {}}[alone]
    answer = answered(tmp_path, taps, reruns={"parallel": garbled(taps), **once_more})
    verdict = judged(PREFILL, answer, causes=True, replayed=None)
    assert (verdict.status, verdict.cause) == ("fail", cause)
    assert verdict.reason.startswith(f"{cause}: run with several requests at a time: logits: ")


def test_a_first_run_that_fails_where_a_later_one_passes_hangs_on_history_too(tmp_path: Path) -> None:
    taps = honest_taps(PREFILL, 31)
    answer = answered(tmp_path, garbled(taps), reruns={"later": taps})
    verdict = judged(PREFILL, answer, answer, causes=True)
    assert (verdict.status, verdict.cause) == ("fail", "history")


def test_a_run_that_is_wrong_each_time_hangs_on_nothing(tmp_path: Path) -> None:
    taps = garbled(honest_taps(PREFILL, 31))
    verdict = judged(PREFILL, answered(tmp_path, taps, reruns={"again": taps, "later": taps}))
    assert (verdict.status, verdict.cause) == ("fail", "")


@pytest.mark.parametrize("fault", ["attention_cap_missing", "gelu_erf"])
def test_a_wrong_fast_path_of_the_untapped_run_fails_by_tapping(fault: str, tmp_path: Path) -> None:
    case_id = "stress/prefill/saturated_cap.float32"
    wrong = logits_of(honest_taps(case_id, 31, evaluator=mutant(FAULTS[fault])))
    answer = answered(tmp_path, honest_taps(case_id, 31), reruns={"untapped": wrong})
    verdict = judged(case_id, answer, answer, causes=True)
    assert (verdict.status, verdict.cause) == ("fail", "tapping")
    assert verdict.reason.startswith("tapping: run with only its logits tapped: logits: ")


def test_an_untapped_run_may_round_otherwise(tmp_path: Path) -> None:
    answer = answered(tmp_path, honest_taps(DECODE, 31), reruns={"untapped": logits_of(honest_taps(DECODE, 32))})
    assert judged(DECODE, answer).status == "pass"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_untapped_run_that_is_not_finite_fails(bad: float, tmp_path: Path) -> None:
    wrong = logits_of(honest_taps(PREFILL, 32))
    wrong["call0/logits"][0, 0, 0] = bad
    answer = answered(tmp_path, honest_taps(PREFILL, 31), reruns={"untapped": wrong})
    assert judged(PREFILL, answer, answer, causes=True).status == "fail"


def test_an_untapped_run_of_another_shape_fails(tmp_path: Path) -> None:
    wrong = {"call0/logits": honest_taps(PREFILL, 32)["call0/logits"][:, :, :-1].copy()}
    answer = answered(tmp_path, honest_taps(PREFILL, 31), reruns={"untapped": wrong})
    assert "shape [2, 6, 100]" in judged(PREFILL, answer, answer, causes=True).reason


def test_a_run_without_taps_is_checked_by_the_state_that_its_last_call_shows(tmp_path: Path) -> None:
    def last_call(taps: Mapping[str, Array]) -> dict[str, Array]:
        return {key: x for key, x in taps.items() if key.startswith("call2/")}

    first = honest_taps(DECODE, 31)
    honest = answered(tmp_path / "honest", first, reruns={"silent": last_call(honest_taps(DECODE, 32))})
    assert judged(DECODE, honest).status == "pass"
    wrong = last_call(honest_taps(DECODE, 31, evaluator=mutant(FAULTS["rope_base_wrong"])))
    spoiled = answered(tmp_path / "wrong", first, reruns={"silent": wrong})
    verdict = judged(DECODE, spoiled, spoiled, causes=True)
    assert (verdict.status, verdict.cause) == ("fail", "tapping")


def test_a_further_run_that_crashed_or_whose_values_are_not_shown_is_no_pass(tmp_path: Path) -> None:
    answer = answered(tmp_path, honest_taps(PREFILL, 31))
    crashed = replace(answer, reruns={"later": Repeated(status="error", reason="the candidate crashed or hung")})
    verdict = judged(PREFILL, crashed, causes=True)
    assert (verdict.status, verdict.cause) == ("error", "history or randomness")
    hidden = replace(answer, reruns={"again": Repeated(digests=dict.fromkeys(answer.taps, "f" * 64))})
    verdict = judged(PREFILL, hidden, causes=True)
    assert verdict.status == "missing"
    assert "has another digest, and again.safetensors does not hold its values" in verdict.reason


def test_a_port_that_shows_only_logits_is_judged_in_its_further_runs_as_well(tmp_path: Path) -> None:
    taps = logits_of(honest_taps(PREFILL, 31))
    answer = answered(tmp_path, taps, info=replace(INFO, taps=("logits",)), reruns={"again": garbled(taps)})
    assert judged(PREFILL, answer, answer, causes=True).status == "fail"
