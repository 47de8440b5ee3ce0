from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from grok_conformance.harness.judging.baseline import (
    append_history,
    read_baseline,
    read_history,
    write_baseline,
)
from tests.harness.judging.kept_runs import OLD, STEADY


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
