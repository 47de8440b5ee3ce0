from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.report.files import read_report, report_of, write_report_json
from grok_conformance.harness.report.html import render
from tests.harness.honest_port import golden
from tests.harness.judging.kept_runs import KEY, OLD, against
from tests.harness.report.pages import BROKEN, COUNTS, data_of, page
from tests.harness.report.verdicts import CRASHED, FAILING, PASSING, verdict


class Tags(HTMLParser):
    """The elements of a page that have been opened and not closed, and every attribute that could fetch something."""

    VOID = ("meta", "link", "br", "input")

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
    assert "<h1>Grok-1 conformance: 1 of 1 candidate passes</h1>" in page(verdict(PASSING))


def test_every_cell_of_the_map_has_its_errors_its_worst_tokens_and_its_diagnosis() -> None:
    text = page(BROKEN)
    cells = {cell["operation"]: cell for cell in data_of(text)["candidates"][0]["cells"]}
    key = cells["attention.key"]
    assert (key["layer"], key["dtype"], key["status"], key["shown"]) == ("1", "bfloat16", "fail", "12.5")
    assert key["histogram"] == list(COUNTS)
    assert key["tokens"][0] == ["1,3,2,7", "1.5", "1.25", "1.25", "0.25", "0.02", "12.5"]
    assert len(key["tokens"]) == 2
    assert key["diagnosis"].startswith("likely gelu_erf, coefficient 0.99 ± 0.01")
    assert (cells["attention.query"]["diagnosis"], cells["attention.query"]["changes"]) == ("", [])
    assert key["changes"] == [ALL_FAULTS["gelu_erf"].remedy]
    buttons = re.findall(r'<button class="shade(\d)( wrong)?" data-cell="(\d+)">([^<]+)</button>', text)
    assert ("4", " wrong", str(list(cells).index("attention.key")), "12.5") in buttons
    assert len(buttons) == len(cells)


def test_what_has_no_name_is_shown_by_what_it_resembles_where_it_is_and_what_to_change() -> None:
    unnamed = Diagnosis(
        (), "", 0, 0, 0, 0, "no fault", "only decode steps", "the right values times 0.5", "look for the factor"
    )
    rows = tuple(replace(row, diagnosis=unnamed if row.status == "fail" else None) for row in BROKEN.operations)
    text = page(replace(BROKEN, operations=rows))
    cells = {cell["operation"]: cell for cell in data_of(text)["candidates"][0]["cells"]}
    assert cells["attention.key"]["diagnosis"].endswith("the right values times 0.5; only decode steps")
    assert cells["attention.key"]["changes"] == ["look for the factor"]
    assert '<span class="fault">the right values times 0.5</span>' in text


def test_the_page_tells_the_command_and_the_commit_and_a_command_for_every_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.argv", ["pytest"])  # where the tests run in several processes, they have other words
    report = json.loads(json.dumps(report_of([BROKEN], golden())))
    report["provenance"]["command"] = "nox -s conformance -- --case '<*>'"
    report["candidates"][0]["commit"] = "0123456789ab-dirty"
    text = render(report)
    assert "<code>nox -s conformance -- --case &#39;&lt;*&gt;&#39;</code>" in text
    assert "Version 2.1, commit <code>0123456789ab-dirty</code>" in text
    assert len(re.findall(r'<tr data-case="[^"]+" data-status="fail">', text)) == 1
    assert 'data-text="pytest --conformance-candidate port --conformance-case unequal/' in text


def test_a_report_of_an_earlier_version_is_read_and_has_a_page_too(tmp_path: Path) -> None:
    report = json.loads(json.dumps(report_of([BROKEN], golden())))
    del report["provenance"]["command"], report["candidates"][0]["commit"]
    write_report_json(tmp_path / "run.json", report)
    assert "in no repository" in render(read_report(tmp_path / "run.json"))


def test_the_rounding_plan_is_a_table_and_stands_with_its_operation() -> None:
    rows = tuple(replace(row, alternative="sums in bfloat16") for row in BROKEN.operations)
    text = page(replace(BROKEN, operations=rows))
    assert "<td>bfloat16</td><td>sums in bfloat16</td>" in text
    assert data_of(text)["candidates"][0]["cells"][0]["plan"] == "sums in bfloat16"
    assert "The rounding plan" not in page(BROKEN)


def test_what_cannot_be_compared_is_marked_and_told_in_words() -> None:
    (cell,) = (
        cell for cell in data_of(page(verdict(FAILING)))["candidates"][0]["cells"] if cell["operation"] == "output"
    )
    assert (cell["shown"], cell["problem"]) == ("!", "missing: declared but not returned")


def test_a_case_that_failed_without_an_operation_is_told_with_its_reason() -> None:
    assert f"{CRASHED.case}: error: killed by signal 11" in page(verdict(PASSING, CRASHED))


def test_no_name_or_reason_can_break_out_of_the_page() -> None:
    evil = "</script><img src=x onerror=alert(1)>"
    text = page(verdict(replace(CRASHED, reason=evil), name=evil), replace(BROKEN, version=evil))
    assert "<img" not in text
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert evil in {candidate["name"] for candidate in data_of(text)["candidates"]}


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


def test_a_page_is_made_of_what_was_read_before_the_candidates_ran(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise AssertionError("a file is read")

    report = report_of([BROKEN], golden())
    expected = render(report)
    monkeypatch.setattr("builtins.open", refused)
    monkeypatch.setattr("io.open", refused)
    assert render(report) == expected
