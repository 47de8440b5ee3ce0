"""How long the main job takes in a fresh clone, the first time and day by day (`nox -s new_user`).

Every figure is printed beside what is aimed at; on a slow machine it may be twice that. What is not committed yet is
not in the clone.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.new_user.stopwatch import ROOT, Stopwatch, readme_command

SLOW = 2.0
"""How many times what is aimed at a slow machine may take."""

VERDICT = r"\S+ \S+: pass \("
JUDGED = r"judged in ([\d.]+) s"


def within(stopwatch: Stopwatch, what: str, seconds: float, aim: float) -> bool:
    """Print a figure beside what is aimed at, and return whether a slow machine may take as long."""
    stopwatch.tell(f"{what} (aim {aim:g}, limit {SLOW * aim:g})", seconds)
    return seconds <= SLOW * aim


def test_the_main_job_of_a_fresh_clone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stopwatch = Stopwatch(tmp_path, capsys)
    stopwatch.run(["git", "clone", "--quiet", str(ROOT), "clone"])
    stopwatch.folder = tmp_path / "clone"
    stopwatch.run(readme_command("python -m pip install nox"))
    job = readme_command("nox -s conformance")
    stopwatch.run([*job, "--install-only"])
    first, again, fresh, one = (
        stopwatch.run([*job, *words]) for words in ([], [], ["--", "--fresh"], ["--", "--candidate", "torch_eager"])
    )
    assert all(
        (
            within(stopwatch, "to the first verdict, nothing compiled before", first.seconds_to(VERDICT), 20),
            within(stopwatch, "the first run, nothing compiled before", first.seconds, 120),
            within(stopwatch, "again, nothing changed", again.seconds, 30),
            within(stopwatch, "again, all judged afresh", fresh.seconds, 60),
            within(stopwatch, "one torch port, all cases", one.seconds, 10),
            within(stopwatch, "of which its answers were judged", float(re.findall(JUDGED, one.words)[-1]), 4),
        )
    )
    assert "reused" in again.words
