from __future__ import annotations

import json
import math
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.diagnosis.matched_filter import Diagnosis
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.histogram import EDGES, Element
from grok_conformance.harness.report.charts import Line, line_chart
from grok_conformance.harness.report.figures import short_ratio
from grok_conformance.harness.report.files import report_of, write_report_json
from grok_conformance.harness.report.html import render
from grok_conformance.harness.report.view import candidate_view
from tests.harness.honest_port import golden
from tests.harness.judging.test_baseline import KEY, OLD, against
from tests.harness.report.verdicts import BAD, CASE, CRASHED, FAILING, GOOD, PASSING, verdict

COUNTS = tuple(range(len(EDGES) + 1))
GELU = Diagnosis(("gelu_erf",), "gelu_erf", 0.99, 0.01, 0.98, 12.0, "no fault")


def diagnosed(found: CandidateVerdict) -> CandidateVerdict:
    rows = tuple(replace(row, diagnosis=GELU if row.status == "fail" else None) for row in found.operations)
    return replace(found, operations=rows)


TOKENS = (Element((1, 3, 2, 7), 1.5, 1.25, 0.02, 1.2500001), Element((0, 1, 2, 3), 2.5, 2.25, 0.02, 2.2500001))
BROKEN = diagnosed(verdict(replace(FAILING, comparisons=(GOOD, replace(BAD, histogram=COUNTS, tokens=TOKENS)))))


def page(*verdicts: CandidateVerdict) -> str:
    return render(json.loads(json.dumps(report_of(verdicts, golden()))))


def data_of(text: str) -> Any:
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', text)
    return json.loads(found)


class Tags(HTMLParser):
    """The elements of a page that have been opened and not closed, and every attribute that could fetch something."""

    VOID = ("meta", "link", "br")

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_fetches_nothing() -> None:
    tags = Tags()
    tags.feed(page(BROKEN, verdict(PASSING, name="good")))
    assert tags.open == []
    assert tags.fetched == ["data:,"]


def test_the_verdict_and_the_likely_fault_with_its_layers_come_before_everything_else() -> None:
    text = page(verdict(PASSING, name="good"), BROKEN)
    assert "<h1>Grok-1 conformance: port does not conform</h1>" in text
    head = text[: text.index("<main>")]
    assert head.index("port</button>") < head.index("good</button>")
    assert re.search(r'<span class="fault">gelu_erf</span> in layer 1: <code>attention.key</code>', head)


def test_a_run_in_which_all_pass_says_so() -> None:
    assert "<h1>Grok-1 conformance: 1 of 1 candidates pass</h1>" in page(verdict(PASSING))


def test_every_cell_of_the_map_has_its_errors_its_worst_tokens_and_its_diagnosis() -> None:
    text = page(BROKEN)
    cells = {cell["operation"]: cell for cell in data_of(text)["candidates"][0]["cells"]}
    key = cells["attention.key"]
    assert (key["layer"], key["dtype"], key["status"], key["shown"]) == ("1", "bfloat16", "fail", "12.5")
    assert key["histogram"] == list(COUNTS)
    assert key["tokens"][0] == ["1,3,2,7", "1.5", "1.25", "1.25", "0.25", "0.02", "12.5"]
    assert len(key["tokens"]) == 2
    assert key["diagnosis"].startswith("likely gelu_erf, coefficient 0.99 ± 0.01")
    assert cells["attention.query"]["diagnosis"] == ""
    buttons = re.findall(r'<button class="shade(\d)( wrong)?" data-cell="(\d+)">([^<]+)</button>', text)
    assert ("4", " wrong", str(list(cells).index("attention.key")), "12.5") in buttons
    assert len(buttons) == len(cells)


def test_what_cannot_be_compared_is_marked_and_told_in_words() -> None:
    (cell,) = (
        cell for cell in data_of(page(verdict(FAILING)))["candidates"][0]["cells"] if cell["operation"] == "output"
    )
    assert (cell["shown"], cell["problem"]) == ("!", "missing: declared but not returned")


def test_a_case_that_failed_without_an_operation_is_told_with_its_reason() -> None:
    assert "1 cases, error: killed by signal 11" in page(verdict(PASSING, CRASHED))


def test_no_name_or_reason_can_break_out_of_the_page() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    text = page(verdict(replace(CRASHED, reason=evil), name=evil), replace(BROKEN, version=evil))
    assert "<img" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert evil in {candidate["name"] for candidate in data_of(text)["candidates"]}


@pytest.mark.parametrize(
    ("ratio", "shown"), [(0.994, "0.99"), (1.0, "1.00"), (12.345, "12.3"), (247000.0, "2e5"), (math.inf, "∞")]
)
def test_a_ratio_is_shown_in_at_most_five_characters(ratio: float, shown: str) -> None:
    assert short_ratio(ratio) == shown


def test_colours_beyond_the_fence_are_for_what_does_not_pass() -> None:
    view = candidate_view(report_of([BROKEN], golden())["candidates"][0])
    assert {cell.status for cell in view.cells.values() if cell.shade > 2} == {"fail"}
    assert {cell.status for cell in view.cells.values() if cell.shade <= 2} == {"pass"}


def test_a_line_chart_draws_every_figure_and_says_them_in_words() -> None:
    drawn = line_chart(["0", "1", "2"], [Line("kl", [1e-3, math.nan, 0.0], "first")], "divergence", across="position")
    assert drawn.count("<circle") == 2
    assert 'aria-label="divergence: kl 0.001, nan, 0"' in drawn


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


def test_what_changed_since_the_baseline_is_told_and_drawn() -> None:
    regression = against(replace(OLD, taps={**OLD.taps, KEY: "c"}))
    text = render(report_of([BROKEN], golden(), {"port": asdict(regression)}))
    assert "changed within fences: attention.key" in text
    assert 'aria-label="time and memory of every run: seconds 4, 4.1, 3.9, 4; GiB 1, 1, 1, 1"' in text
    assert "Since the baseline" not in page(BROKEN)


def test_known_deviations_stand_beside_the_verdict() -> None:
    waiver = Waiver(
        source="a file",
        candidate="port",
        case="*",
        reason="the engine does so",
        reference="its source",
        expires="2027-01-01",
        tap="moe.expert_gate",
        fault="gates_x",
    )
    text = page(replace(verdict(PASSING), waivers=(waiver,)))
    assert "known moe.expert_gate: gates_x, until 2027-01-01 (the engine does so)" in text
    assert "known deviations apart" in text


def test_every_case_is_read_for_its_dtype() -> None:
    assert {cell["dtype"] for cell in data_of(page(BROKEN))["candidates"][0]["cells"]} == {CASE.rpartition(".")[2]}
