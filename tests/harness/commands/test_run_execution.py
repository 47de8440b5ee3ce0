"""A run judges who is asked for, and absence is no pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import run_execution
from grok_conformance.harness.running import registry

CASE = "stress/prefill/saturated_cap.float32"


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two built-in candidates, of which one lacks its extra."""
    monkeypatch.setattr(run_execution, "default_names", lambda: ("numpy_float64", "torch_eager"))
    monkeypatch.setattr(registry, "missing_extra", lambda name: "torch" if name == "torch_eager" else "")


@pytest.mark.usefixtures("without_torch")
@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        ([], 0),
        (["--require", "torch_eager:logits"], 1),
        (["--candidate", "torch_eager"], 1),
    ],
)
def test_a_candidate_without_its_extra_is_unsupported_and_fails_only_where_it_was_asked_for(
    arguments: list[str], status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--case", CASE, *arguments]) == status
    assert "unsupported: extra torch is not installed" in " ".join(capsys.readouterr().out.split())


def test_a_run_without_any_candidate_is_no_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_execution, "default_names", lambda: ("torch_eager",))
    monkeypatch.setattr(registry, "missing_extra", lambda _name: "torch")
    assert main(["run", "--case", CASE]) == 1


def test_each_verdict_but_the_last_is_told_before_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    second = tmp_path / "second.py"
    second.write_text("from grok_conformance.candidates.numpy_float64 import *\n")
    told: list[str] = []

    def report(*_given: object) -> int:
        told.append(capsys.readouterr().err)
        return 0

    monkeypatch.setattr("grok_conformance.harness.commands.conclusion.conclude", report)
    assert main(["run", "--case", CASE, "--candidate", "numpy_float64", "--candidate", str(second)]) == 0
    (line,) = told[0].splitlines()
    assert line.startswith("numpy_float64")
    assert ": pass (caches); " in line
