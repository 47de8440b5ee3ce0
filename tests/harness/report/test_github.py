from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.report.github import MAX_ANNOTATIONS, commands_off, report_to_github, summary
from tests.harness.report.pages import BROKEN
from tests.harness.report.verdicts import BAD, CRASHED, FAILING, MANY, PASSING, REUSED, verdict


def annotated(*verdicts: object) -> list[str]:
    return list(report_to_github(verdicts, {"GITHUB_ACTIONS": "true"}))  # type: ignore[arg-type] # verdicts


def test_outside_github_nothing_is_written() -> None:
    assert list(report_to_github([BROKEN], {})) == []


def test_the_summary_is_appended_and_has_a_row_per_candidate_with_the_likely_fault(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n")
    assert list(report_to_github([BROKEN, verdict(PASSING, name="good")], {"GITHUB_STEP_SUMMARY": str(path)})) == []
    lines = path.read_text().splitlines()
    assert lines[0] == "before"
    assert "| port | fail | 0 of 1 | gelu_erf | attention.key |" in lines
    assert "| good | pass (layers) | 1 of 1 |  |  |" in lines
    assert "port: attention.key: fail in bfloat16, layers 1" in lines


def test_a_verdict_of_an_earlier_run_says_so_in_its_row() -> None:
    assert "| port | pass (layers); reused from 2026-11-28 14:03 UTC with --seed 123: " in summary([REUSED])


def test_a_name_cannot_add_a_column() -> None:
    assert "| a\\|b | pass (layers) |" in summary([verdict(PASSING, name="a|b")])


def test_every_failing_operation_is_annotated_on_one_line() -> None:
    (line,) = annotated(BROKEN)
    assert line.startswith("::error title=port%3A attention.key::port: attention.key: fail in bfloat16, layers 1%0A")
    assert "\n" not in line


def test_a_candidate_that_crashed_is_annotated_with_its_reason() -> None:
    assert annotated(verdict(CRASHED)) == ["::error title=port::error: killed by signal 11"]
    assert annotated(verdict(PASSING)) == []


def test_no_more_annotations_are_written_than_github_shows() -> None:
    many = replace(FAILING, comparisons=tuple(replace(BAD, tap=f"layers.01.{name}", index=(0, 0, 0)) for name in MANY))
    assert len(annotated(verdict(many), verdict(many, name="other"))) == MAX_ANNOTATIONS


def test_what_a_port_says_is_no_markup_of_the_summary() -> None:
    (row,) = (line for line in summary([verdict(PASSING, name="<b>`x`</b>\nnew")]).splitlines() if "pass" in line)
    assert row.startswith("| &lt;b&gt;&#96;x&#96;&lt;/b&gt; new | pass")


def test_on_github_nothing_that_is_shown_is_taken_for_a_command(capsys: pytest.CaptureFixture[str]) -> None:
    with commands_off({"GITHUB_ACTIONS": "true"}):
        print("::error::forged")  # noqa: T201 - as a port's words are shown
    first, forged, *_, last = capsys.readouterr().out.splitlines()
    token = first.removeprefix("::stop-commands::")
    assert len(token) == 32
    assert (forged, last) == ("::error::forged", f"::{token}::")


def test_elsewhere_the_log_is_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    with commands_off({}):
        pass
    assert not capsys.readouterr().out
