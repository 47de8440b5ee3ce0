"""`diff`: two runs side by side; a run and a golden set are not compared."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.report.files import report_of, write_report_json
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import DRIFT, PASSING, verdict


def test_runs_in_different_dtypes_are_matched_by_operation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = report_of([verdict(PASSING)], golden())
    write_report_json(tmp_path / "old.json", report)
    wide = report["candidates"][0]["operations"][0]
    write_report_json(
        tmp_path / "new.json",
        {**report, "candidates": [{**report["candidates"][0], "operations": [{**wide, "fprop_dtype": "float32"}]}]},
    )
    assert main(["diff", str(tmp_path / "old.json"), str(tmp_path / "new.json")]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith(" attention.query"))
    assert line.split()[:6] == ["attention.query", "bfloat16", "→", "float32", "within", "fences"]


def test_end_to_end_errors_of_two_runs_stand_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drift = replace(DRIFT, tap="layers.01.attention.query")
    for name, error in (("old", 0.1), ("new", 0.025)):
        case = replace(PASSING, drifts=(replace(drift, observed_error=error),))
        write_report_json(tmp_path / f"{name}.json", report_of([verdict(case)], golden()))
    main(["diff", str(tmp_path / "old.json"), str(tmp_path / "new.json")])
    assert "0.1 → 0.025" in capsys.readouterr().out


def test_a_golden_set_and_a_report_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["diff", str(tmp_path), str(tmp_path / "run.json")]) == 2
    assert "give two golden sets, or two JSON reports" in capsys.readouterr().err
