"""`judge`: the verdict on answers written elsewhere is that on a run here."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main

CASE = "stress/prefill/saturated_cap.float32"


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the jobs and answers of an honest run."""
    folder = tmp_path_factory.mktemp("run") / "kept"
    assert main(["run", "--candidate", "numpy_float64", "--case", CASE, "--keep", str(folder), "--quiet"]) == 0
    return folder


def folders(kept: Path) -> tuple[Path, Path]:
    return kept / "jobs" / "stress.float32", kept / "answers" / "numpy_float64" / "stress.float32"


def test_answers_of_an_honest_run_pass(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", *map(str, folders(kept))]) == 0
    assert "pass (caches)" in capsys.readouterr().out


def test_a_failure_is_shown_again_in_its_case_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = Path("kept")
    cases = (CASE, "stress/prefill/saturated_cap.bfloat16")
    asked = [word for case in cases for word in ("--case", case)]
    assert main(["run", "--candidate", "numpy_float64", *asked, "--keep", str(folder), "--quiet", "--seed", "1"]) == 0
    out = folder / "answers" / "numpy_float64"
    for path in (out / "stress.float32").rglob("taps.safetensors"):
        path.unlink()
    words = ["judge", str(folder / "jobs"), str(out)]
    monkeypatch.setattr(sys, "argv", ["/bin/grok-conformance", *words])
    assert main(words) == 1
    (line,) = {line for line in capsys.readouterr().out.splitlines() if "  reproduce " in line and CASE in line}
    command = shlex.split(line.partition("  reproduce ")[2])
    assert command == ["grok-conformance", *words, "--case", CASE]
    assert main(command[1:]) == 1
    assert "0 of 1 case" in capsys.readouterr().out
    assert main([*words, "--case", cases[1]]) == 0


def test_an_answer_that_is_gone_is_missing(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job, out = folders(kept)
    shutil.copytree(out, tmp_path / "out")
    for path in (tmp_path / "out").rglob("taps.safetensors"):
        path.unlink()
    assert main(["judge", str(job), str(tmp_path / "out")]) == 1
    assert "pass" not in capsys.readouterr().out.splitlines()[-1]


def test_jobs_without_answers_are_wrong_usage(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["judge", str(tmp_path / "no_job"), str(folders(kept)[1])]) == 2
    assert "no_job" in capsys.readouterr().err
