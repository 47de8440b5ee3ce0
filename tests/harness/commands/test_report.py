"""`report`: a page from the JSON report of a run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.report.files import report_of, write_report_json
from grok_conformance.harness.report.html import render
from tests.harness.honest_port import golden
from tests.harness.report.pages import BROKEN


def test_the_command_writes_the_page_of_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report, target = tmp_path / "run.json", tmp_path / "run.html"
    write_report_json(report, report_of([BROKEN], golden()))
    assert main(["report", str(report), "--html", str(target)]) == 0
    assert target.read_text() == render(json.loads(report.read_text()))
    assert "one file" in capsys.readouterr().out


def test_a_file_that_is_no_report_is_refused_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "run.json"
    report.write_text('{"format": 7}')
    assert main(["report", str(report), "--html", str(tmp_path / "run.html")]) == 2
    assert "no report of format 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [report]
