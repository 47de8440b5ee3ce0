"""The end of a command: reports are written, and the exit status says what counts."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.commands.conclusion import conclude
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import FAILING, PASSING, verdict

GOOD, BAD = verdict(PASSING, name="good"), verdict(FAILING, name="bad")


def options(**files: Path | str) -> argparse.Namespace:
    usual = {"json": None, "html": None, "junit": None, "detail": "quiet", "strict": False}
    return argparse.Namespace(**{**usual, **files})


@pytest.mark.parametrize(
    ("verdicts", "required", "optional", "status"),
    [
        ([GOOD], [], [], PASS),
        ([GOOD, BAD], [], [], NONCONFORMING),
        ([GOOD, BAD], [], ["bad"], PASS),
        ([BAD], [], ["bad"], NONCONFORMING),
        ([], [], [], NONCONFORMING),
        ([GOOD], [("good", "layers")], [], PASS),
        ([GOOD], [("good", "caches")], [], NONCONFORMING),
    ],
)
def test_every_candidate_that_counts_must_pass_at_its_level_and_there_must_be_one(
    verdicts: list[CandidateVerdict], required: Sequence[tuple[str, str]], optional: list[str], status: int
) -> None:
    assert conclude(verdicts, golden(), options(), required, optional) == status


def test_a_level_that_is_not_reached_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    conclude([GOOD], golden(), options(), [("good", "caches")])
    assert capsys.readouterr().err == "good: its level is below the required caches\n"


def test_published_quirks_count_only_where_they_are_required(capsys: pytest.CaptureFixture[str]) -> None:
    quirky = replace(GOOD, cases=(*GOOD.cases, CaseVerdict(case="unequal/decode/pad_token.float32", status="quirk")))
    assert quirky.passed
    assert conclude([quirky], golden(), options()) == PASS
    assert conclude([quirky], golden(), options(), [("good", "quirks")]) == NONCONFORMING
    assert "quirks of unequal/decode/pad_token.float32" in capsys.readouterr().err
    assert conclude([GOOD], golden(), options(), [("good", "quirks")]) == PASS


def test_nothing_but_published_quirks_passes_and_is_told_unless_they_are_required(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    only = replace(GOOD, cases=(CaseVerdict(case="unequal/decode/pad_token.float32", status="quirk"),), operations=())
    files = {name: tmp_path / f"run.{name}" for name in ("json", "html", "junit")}
    assert conclude([only], golden(), options(**files, detail="normal")) == PASS
    told = capsys.readouterr().out
    assert "quirk, of nothing but published quirks, which it does not reproduce" in told
    assert "likely" not in told
    assert conclude([only], golden(), options(), [("good", "quirks")]) == NONCONFORMING


def test_every_file_that_was_asked_for_is_written(tmp_path: Path) -> None:
    files = {name: tmp_path / f"run.{name}" for name in ("json", "html", "junit")}
    conclude([GOOD, BAD], golden(), options(**files))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.json", "run.junit"]
