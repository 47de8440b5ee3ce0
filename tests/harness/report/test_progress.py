"""Progress in a pipe: a line per candidate and minute, none in a run that takes less."""

from __future__ import annotations

import pytest

from grok_conformance.harness.report.progress import lines_of, progress_bar
from tests.harness.report.verdicts import (
    CASE,
    OTHER,
)


def test_a_line_is_written_for_each_candidate_once_a_minute(capsys: pytest.CaptureFixture[str]) -> None:
    now = iter([0.0, 30.0, 61.0, 62.0, 100.0, 125.0])
    advance = lines_of(9, clock=lambda: next(now))
    for name in ("port", "port", "other", "port", "port"):
        advance(name, CASE)
    assert capsys.readouterr().err.splitlines() == [
        f"port: 2 cases in 61 s, now {CASE} (2 of 9 in all)",
        f"other: 1 case in 62 s, now {CASE} (3 of 9 in all)",
        f"port: 4 cases in 125 s, now {CASE} (5 of 9 in all)",
    ]


def test_a_short_run_in_a_pipe_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2) as advance:
        advance("port", CASE)
        advance("port", OTHER)
    assert capsys.readouterr() == ("", "")
