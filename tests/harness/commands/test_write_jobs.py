"""`write-jobs`: job folders to carry elsewhere, and the commands to go on with."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.running.jobs import read_job


def test_a_job_and_a_folder_for_its_answers_are_written_per_preset_and_dtype(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["write-jobs", str(tmp_path / "run"), "--case", "stress/*"]) == 0
    jobs = sorted((tmp_path / "run" / "jobs").iterdir())
    golden = [job.name for job in jobs if job.name.count(".") == 1]  # others are of drawn weights
    assert golden == ["stress.bfloat16", "stress.float32"]
    for job in jobs:
        answers = tmp_path / "run" / "answers" / job.name
        assert all((answers / case.folder).is_dir() for case in read_job(job).cases)
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("PROGRAM ")]) == len(jobs)
    assert lines[-1] == f"python -m grok_conformance judge {tmp_path}/run/jobs {tmp_path}/run/answers"


def test_jobs_of_several_patterns_are_written_together(tmp_path: Path) -> None:
    cases = ("stress/prefill/saturated_cap.float32", "unequal/prefill/single_token.float32")
    assert main(["write-jobs", str(tmp_path / "run"), *(word for case in cases for word in ("--case", case))]) == 0
    asked = [case.id for job in (tmp_path / "run" / "jobs").iterdir() for case in read_job(job).cases]
    assert {case for case in asked if "~" not in case} == set(cases)


def test_a_folder_that_is_there_is_left_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mine").write_text("kept")
    assert main(["write-jobs", str(tmp_path)]) == 2
    assert "exists already: give a new folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
