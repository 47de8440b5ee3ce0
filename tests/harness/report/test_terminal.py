"""A run on the terminal: one table, every failure explained with all its numbers."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from rich.console import Console

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.judging.coverage import Coverage
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, by_operation
from grok_conformance.harness.report.explanation import format_ratio
from grok_conformance.harness.report.figures import LEGEND
from grok_conformance.harness.report.reproduction import reproduce
from grok_conformance.harness.report.terminal import MAX_FAILURES, MAX_NAMED, Detail, failures, show
from tests.harness.report.verdicts import (
    BAD,
    CASE,
    CRASHED,
    FAILING,
    FLIP,
    MANY,
    MISSHAPEN,
    MISSING,
    OTHER,
    PASSING,
    REUSED,
    verdict,
)


def shown(*verdicts: CandidateVerdict, detail: Detail = "normal") -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, verdicts, detail)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(output: str, first: str) -> list[str]:
    (row,) = (words for line in output.splitlines() if (words := line.split())[:1] == [first])
    return row


def test_the_table_of_operations_shows_verdict_ratio_and_worst_case() -> None:
    output = shown(verdict(PASSING))
    assert row_of(output, "attention.query") == ["attention.query", "pass", "0.91", CASE]
    both = shown(verdict(PASSING), verdict(FAILING, name="other"))
    assert row_of(both, "attention.query")[3:] == ["port:", CASE]


def test_the_last_line_of_a_candidate_says_level_cases_drift_flips_repeat_and_time() -> None:
    last = shown(verdict(PASSING)).splitlines()[-1]
    assert last == (
        "port 2.1: pass (layers); 1 of 1 case; end to end 0.25 of what is allowed; "
        "1 of 1 other choice of experts excused; "
        "bitwise repeatable (a race in 77.6% of runs would have been seen); answered in 3.2 s"
    )
    judged = shown(replace(verdict(PASSING), judging_seconds=4.44)).splitlines()[-1]
    assert judged == f"{last}, judged in 4.4 s"
    unrepeated = replace(PASSING, repeatable=False, flips=(replace(FLIP, gap=1.0),), drifts=())
    last = shown(verdict(unrepeated)).splitlines()[-1]
    assert "end to end" not in last
    assert "0 of 1 other choice of experts excused; not bitwise repeatable" in last


def test_a_case_that_passes_in_one_run_and_fails_in_another_is_told_with_what_it_hangs_on() -> None:
    output = shown(verdict(replace(PASSING, status="fail", cause="history", reason="history: run a second time: x")))
    assert "1 case hangs on history" in output.splitlines()[-1]
    assert "history: run a second time: x" in output


def test_the_last_line_of_a_failing_candidate_names_the_operations_at_fault() -> None:
    last = shown(verdict(FAILING)).splitlines()[-1]
    assert last.startswith("port 2.1: fail; 0 of 1 case; wrong at attention.key, output, logits;")


def test_what_was_judged_elsewhere_is_told_without_a_time() -> None:
    assert shown(replace(verdict(PASSING), seconds=0.0)).splitlines()[-1].endswith("would have been seen)")


def test_where_nothing_was_answered_there_is_no_table() -> None:
    output = shown(verdict(CRASHED))
    assert "Operations, recomputed" not in output
    assert LEGEND not in output


MANY_SIZES = (
    Coverage(trigger="layers", least=1, most=2, met=("1", "2"), not_met=("12",)),
    Coverage(trigger="rows of a batch", least=1, most=2, met=("1", "2"), not_met=("3", "4", "16")),
)


def test_what_was_exercised_is_one_short_line_and_whole_if_asked_for() -> None:
    covered = replace(verdict(PASSING), coverage=MANY_SIZES)
    told = "Exercised in port: 4 of 8 sizes and orders of calls; not layers 12, rows of a batch 3 and 2 more "
    assert f"{told}(--verbose, --json and --html tell all)" in shown(covered)
    whole = "Exercised in port: layers 1 to 2, not 12; rows of a batch 1 to 2, not 3, 4, 16"
    assert whole in shown(covered, detail="verbose")


def test_what_was_exercised_is_not_told_of_a_narrowed_run_nor_of_one_that_could_not_be() -> None:
    narrowed = replace(verdict(PASSING), coverage=MANY_SIZES, narrowed="moe.norm")
    crashed = replace(verdict(CRASHED), coverage=MANY_SIZES)
    assert "Exercised" not in shown(narrowed, crashed)


def test_in_a_pipe_a_command_is_one_line_and_on_a_terminal_it_can_be_pasted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])  # where the tests run in several processes, they have other words
    told = reproduce("port", CASE, "attention.key")
    for is_terminal in (False, True):
        console = Console(file=io.StringIO(), width=60, force_terminal=is_terminal, color_system=None)
        show(console, [verdict(FAILING)])
        assert isinstance(console.file, io.StringIO)
        output = console.file.getvalue()
        assert (f"reproduce {told}\n" in output) != is_terminal
        assert f"reproduce {told}\n" in re.sub(r" \\\n +", " ", output)


@pytest.mark.parametrize("detail", ["quiet", "normal", "verbose"])
def test_a_verdict_of_an_earlier_run_says_so_in_its_line(detail: Detail) -> None:
    told = "reused from 2026-11-28 14:03 UTC with --seed 123: nothing that it depends on has changed; 1 of 1 case;"
    assert f"port 2.1: pass (layers); {told}" in shown(REUSED, detail=detail)
    assert ("Reused for port: what an earlier run drew" in shown(REUSED, detail=detail)) == (detail != "quiet")
    assert "eused" not in shown(verdict(PASSING), detail=detail)


def test_quiet_shows_the_verdicts_alone() -> None:
    assert len(shown(verdict(FAILING), verdict(PASSING), detail="quiet").splitlines()) == 2


def test_verbose_shows_every_candidate_at_every_operation_and_explains_every_failure() -> None:
    output = shown(verdict(PASSING, name="first"), verdict(PASSING, name="second"), detail="verbose")
    assert sum(line.split()[:1] == ["attention.query"] for line in output.splitlines()) == 2
    many = replace(FAILING, comparisons=tuple(replace(BAD, tap=f"layers.01.{name}", index=(0, 0, 0)) for name in MANY))
    assert "also at fault" in shown(verdict(many))
    assert shown(verdict(many), detail="verbose").count("reproduce") == len(MANY)


def test_a_failure_is_explained_in_at_most_15_lines() -> None:
    assert all(len(block.splitlines()) <= 15 for block in failures(verdict(FAILING)))


def test_candidates_that_pass_share_a_row_and_each_that_fails_has_its_own() -> None:
    output = shown(verdict(PASSING, name="first"), verdict(FAILING, name="second"), verdict(FAILING, name="third"))
    rows = [
        line.split()[:2]
        for line in output.splitlines()
        if line.split()[:1] and line.split()[0].startswith("attention.")
    ]
    assert rows == [["attention.query", "pass"], ["attention.key", "fail"], ["attention.key", "fail"]]


def test_a_failing_operation_is_explained_with_all_its_numbers() -> None:
    output = shown(verdict(FAILING))
    assert "port: attention.key: fail in bfloat16, layers 1" in output
    assert f"case      {CASE}, call 0, tap layers.01.attention.key" in output
    assert "worst at  [1, 3, 2, 7]" in output
    assert "observed  1.5, exact 1.25, expected 1.2500001" in output
    assert "error     0.25, 12.5 times the fence 0.02" in output
    assert f"reproduce {reproduce('port', CASE, 'attention.key')}" in output


def test_a_failing_operation_is_explained_with_its_likely_fault() -> None:
    found = Diagnosis(("gqa_tiled",), "gqa_tiled", 1.0, 0.01, 0.97, 8.0, "no fault")
    rows = by_operation((FAILING,), {CASE: "bfloat16"}, {}, {("bfloat16", "attention.key"): found})
    output = shown(replace(verdict(FAILING), operations=rows))
    assert (
        "diagnosis likely gqa_tiled, coefficient 1 ± 0.01, explains 97.0%, more than a million to 1 before no fault"
        in output
    )
    assert output.count("diagnosis") == 1


def test_a_problem_without_a_number_is_told_in_words() -> None:
    output = shown(verdict(FAILING))
    assert "problem   shape [1], expected [b, t, v] = [2, 6, 101]" in output
    assert "problem   missing: declared but not returned" in output
    assert [format_ratio(comparison) for comparison in (BAD, MISSING, MISSHAPEN)] == ["12.5", "missing", "wrong"]


def test_a_case_that_failed_otherwise_is_told_with_its_reason() -> None:
    output = shown(verdict(PASSING, CRASHED))
    assert f"port: {OTHER}: error: killed by signal 11\n  reproduce {reproduce('port', OTHER)}" in output


def test_cases_that_failed_for_one_reason_are_told_together_and_the_first_of_them_by_name() -> None:
    crashed = [replace(CRASHED, case=f"unequal/prefill/{name}.bfloat16") for name in "abcde"]
    output = shown(verdict(PASSING, *crashed))
    assert "port: 5 cases, error: killed by signal 11" in output
    assert f"cases     {', '.join(case.case for case in crashed[:MAX_NAMED])} and 2 more\n" in output
    assert f"first: {reproduce('port', crashed[0].case)}" in output


def test_no_more_failures_are_explained_than_can_be_read_and_the_rest_are_named() -> None:
    many = tuple(replace(BAD, tap=f"layers.01.{name}", index=(0, 0, 0)) for name in MANY)
    blocks = failures(verdict(replace(FAILING, comparisons=many)))
    assert len(blocks) == MAX_FAILURES + 1
    assert blocks[-1] == "port: also at fault: moe.output, output"


@pytest.mark.parametrize("status", ["pass", "fail", "missing", "unsupported", "error", "inconclusive"])
def test_every_status_can_be_shown_and_only_a_pass_names_the_level(status: str) -> None:
    case = replace(PASSING, status="pass") if status == "pass" else CaseVerdict(case=CASE, status="fail")
    found = verdict(replace(case, status=status))  # type: ignore[arg-type] # a Status by its parametrisation
    assert found.summary == ("pass (layers)" if status in ("pass", "waived") else status)
    assert found.summary in shown(found)


def test_a_verdict_that_stands_alone_tells_why_where_no_operation_does() -> None:
    assert shown(verdict(CRASHED), detail="quiet").startswith("port 2.1: error; 0 of 1 case; killed by signal 11;")
    assert "killed" not in shown(verdict(CRASHED)).splitlines()[-1]
    assert "too far" not in shown(verdict(FAILING), detail="quiet")
