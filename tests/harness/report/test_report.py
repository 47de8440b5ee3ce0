from __future__ import annotations

import io
import json
import math
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import fastjsonschema
import pytest
from rich.console import Console

from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.logit_agreement import LogitAgreement, RoutingMargins
from grok_conformance.harness.diagnosis.matched_filter import Diagnosis
from grok_conformance.harness.diagnosis.power import Power
from grok_conformance.harness.formats.files import plain
from grok_conformance.harness.judging.baseline import conformance_digest
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, OperationVerdict, by_operation
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.histogram import Element
from grok_conformance.harness.measure.systematic import Systematic
from grok_conformance.harness.report import files, terminal
from grok_conformance.harness.report.files import read_report, report_of, write_junit, write_report_json
from grok_conformance.harness.report.progress import progress_bar
from grok_conformance.harness.report.terminal import MAX_FAILURES, Detail, failures, format_ratio, show
from tests.harness.honest_port import golden

CASE, OTHER = "unequal/prefill/padded_batch.bfloat16", "unequal/prefill/single_token.bfloat16"
GOOD = Comparison(0, "layers.01.attention.query", 576, tail=0.91, bulk=0.5)
BAD = Comparison(
    0,
    "layers.01.attention.key",
    144,
    tail=12.5,
    bulk=3.0,
    index=(1, 3, 2, 7),
    observed=1.5,
    exact=1.25,
    allowed=0.02,
    expected=1.2500001,
)
MISSING = Comparison(0, "layers.00.output", 0, problem="missing: declared but not returned")
MISSHAPEN = Comparison(0, "logits", 0, problem="shape [1], expected [b, t, v] = [2, 6, 101]")
DRIFT = Drift(0, "logits", 0.25, (0, 0), 0.1, 0.1, 0.1)
FLIP = Flip(0, 1, (0, 3), gap=0.01, allowed=0.02)
MANY = (
    "attention.norm",
    "attention.output",
    "attention.output_norm",
    "attention.residual",
    "moe.norm",
    "moe.output",
    "output",
)


def verdict(*cases: CaseVerdict, name: str = "port") -> CandidateVerdict:
    rows = by_operation(cases, {CASE: "bfloat16", OTHER: "bfloat16"}, {})
    return CandidateVerdict(name=name, version="2.1", level="layers", cases=cases, operations=rows, seconds=3.25)


PASSING = CaseVerdict(
    case=CASE, status="pass", comparisons=(GOOD,), drifts=(DRIFT,), flips=(FLIP,), repeatable=True, seconds=0.5
)
FAILING = CaseVerdict(case=CASE, status="fail", reason="too far", comparisons=(GOOD, BAD, MISSING, MISSHAPEN))
CRASHED = CaseVerdict(case=OTHER, status="error", reason="killed by signal 11")


def shown(*verdicts: CandidateVerdict, detail: Detail = "normal") -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, verdicts, detail)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row_of(output: str, first: str) -> list[str]:
    (row,) = (words for line in output.splitlines() if (words := line.split())[:1] == [first])
    return row


def test_the_table_of_operations_shows_verdict_ratio_and_worst_case() -> None:
    output = shown(verdict(PASSING))
    assert row_of(output, "attention.query") == ["attention.query", "pass", "0.91", CASE]
    both = shown(verdict(PASSING), verdict(FAILING, name="other"))
    assert row_of(both, "attention.query")[3:] == ["port:", CASE]


def test_the_last_line_of_a_candidate_says_level_cases_drift_flips_repeat_and_time() -> None:
    last = shown(verdict(PASSING)).splitlines()[-1]
    assert last == (
        "port 2.1: pass (layers); 1 of 1 cases; end to end 0.25 of what is allowed; "
        "1 of 1 other choices of experts excused; bitwise repeatable; 3.2 s"
    )
    unrepeated = replace(PASSING, repeatable=False, flips=(replace(FLIP, gap=1.0),), drifts=())
    last = shown(verdict(unrepeated)).splitlines()[-1]
    assert "end to end" not in last
    assert "0 of 1 other choices of experts excused; not bitwise repeatable" in last


def test_the_last_line_of_a_failing_candidate_names_the_operations_at_fault() -> None:
    last = shown(verdict(FAILING)).splitlines()[-1]
    assert last.startswith("port 2.1: fail; 0 of 1 cases; wrong at attention.key, output, logits;")


def test_quiet_shows_the_verdicts_alone() -> None:
    assert len(shown(verdict(FAILING), verdict(PASSING), detail="quiet").splitlines()) == 2


def test_verbose_shows_every_candidate_at_every_operation_and_explains_every_failure() -> None:
    output = shown(verdict(PASSING, name="first"), verdict(PASSING, name="second"), detail="verbose")
    assert sum(line.split()[:1] == ["attention.query"] for line in output.splitlines()) == 2
    many = replace(FAILING, comparisons=tuple(replace(BAD, tap=f"layers.01.{name}", index=(0, 0, 0)) for name in MANY))
    assert "also at fault" in shown(verdict(many))
    assert shown(verdict(many), detail="verbose").count("reproduce") == len(MANY)


def test_a_failure_is_explained_in_at_most_15_lines() -> None:
    assert all(len(block.splitlines()) <= 15 for block in failures(verdict(FAILING)))


def test_candidates_that_pass_share_a_row_and_each_that_fails_has_its_own() -> None:
    output = shown(verdict(PASSING, name="first"), verdict(FAILING, name="second"), verdict(FAILING, name="third"))
    rows = [
        line.split()[:2]
        for line in output.splitlines()
        if line.split()[:1] and line.split()[0].startswith("attention.")
    ]
    assert rows == [["attention.query", "pass"], ["attention.key", "fail"], ["attention.key", "fail"]]


def test_a_failing_operation_is_explained_with_all_its_numbers() -> None:
    output = shown(verdict(FAILING))
    assert "port: attention.key: fail in bfloat16, layers 1" in output
    assert f"case      {CASE}, call 0, tap layers.01.attention.key" in output
    assert "worst at  [1, 3, 2, 7]" in output
    assert "observed  1.5, exact 1.25, expected 1.2500001" in output
    assert "error     0.25, fence 0.02: 12.5 times" in output
    assert f"nox -s conformance -- --candidate port --case '{CASE}'" in output


def test_a_failing_operation_is_explained_with_its_likely_fault() -> None:
    found = Diagnosis(("gqa_tiled",), "gqa_tiled", 1.0, 0.01, 0.97, 8.0, "no fault")
    rows = by_operation((FAILING,), {CASE: "bfloat16"}, {}, {("bfloat16", "attention.key"): found})
    output = shown(replace(verdict(FAILING), operations=rows))
    assert "diagnosis likely gqa_tiled, coefficient 1 ± 0.01, explains 97.0%, 1e8 : 1 before no fault" in output
    assert output.count("diagnosis") == 1


def test_a_problem_without_a_number_is_told_in_words() -> None:
    output = shown(verdict(FAILING))
    assert "problem   shape [1], expected [b, t, v] = [2, 6, 101]" in output
    assert "problem   missing: declared but not returned" in output
    assert [format_ratio(comparison) for comparison in (BAD, MISSING, MISSHAPEN)] == ["12.5", "missing", "wrong"]


def test_a_case_that_failed_otherwise_is_told_with_its_reason() -> None:
    output = shown(verdict(PASSING, CRASHED))
    assert "port: 1 cases, error: killed by signal 11" in output
    assert f"--case '{OTHER}'" in output


def test_no_more_failures_are_explained_than_can_be_read_and_the_rest_are_named() -> None:
    many = tuple(replace(BAD, tap=f"layers.01.{name}", index=(0, 0, 0)) for name in MANY)
    blocks = failures(verdict(replace(FAILING, comparisons=many)))
    assert len(blocks) == MAX_FAILURES + 1
    assert blocks[-1] == "port: also at fault: moe.output, output"


@pytest.mark.parametrize("status", ["pass", "fail", "missing", "unsupported", "error", "inconclusive"])
def test_every_status_can_be_shown_and_only_a_pass_names_the_level(status: str) -> None:
    case = replace(PASSING, status="pass") if status == "pass" else CaseVerdict(case=CASE, status="fail")
    found = verdict(replace(case, status=status))  # type: ignore[arg-type] # a Status by its parametrisation
    assert found.summary == ("pass (layers)" if status in ("pass", "waived") else status)
    assert found.summary in shown(found)


def test_the_json_report_holds_everything_and_spells_out_what_json_cannot(tmp_path: Path) -> None:
    nowhere = replace(FAILING, drifts=(replace(DRIFT, ratio=math.nan),))
    write_report_json(tmp_path / "run.json", report_of([verdict(PASSING, nowhere)], golden()))
    report = json.loads((tmp_path / "run.json").read_text(), parse_constant=pytest.fail)
    assert report["format"] == 1
    assert report["suite"] == golden().manifest.suite
    (candidate,) = report["candidates"]
    assert (candidate["name"], candidate["status"], candidate["level"]) == ("port", "fail", "layers")
    assert candidate["digest"] == conformance_digest(verdict(PASSING, nowhere))
    passing, failing = candidate["cases"]
    assert passing["comparisons"][0]["tail"] == 0.91
    assert passing["repeatable"] is True
    assert failing["drifts"][0]["ratio"] == "nan"
    assert failing["comparisons"][1]["index"] == [1, 3, 2, 7]


def test_a_report_is_read_in_the_format_in_which_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "FORMAT", files.FORMAT + 1)
    write_report_json(tmp_path / "run.json", report_of([verdict(PASSING)], golden()))
    assert read_report(tmp_path / "run.json")["format"] == files.FORMAT


def test_a_conformance_digest_leaves_out_times_and_nothing_else() -> None:
    found = verdict(PASSING)
    slower = replace(found, seconds=99.0, cases=(replace(PASSING, seconds=77.0),))
    assert conformance_digest(found) == conformance_digest(slower)
    assert conformance_digest(found) != conformance_digest(replace(found, version="2.2"))
    assert conformance_digest(verdict(replace(FAILING, comparisons=(BAD,)))) != conformance_digest(
        verdict(replace(FAILING, comparisons=(replace(BAD, tail=12.6),)))
    )


def test_the_json_report_is_what_the_published_schema_says() -> None:
    schema = json.loads((Path(terminal.__file__).parent / "report.schema.json").read_text())
    check = fastjsonschema.compile(schema)
    report = json.loads(json.dumps(report_of([verdict(PASSING), verdict(FAILING), verdict(CRASHED)], golden())))
    check(report)
    for name, key in (("comparison", "histogram"), ("case", "margins"), ("candidate", "level")):
        assert key in schema["definitions"][name]["required"]
    report["candidates"][0]["cases"][0]["comparisons"][0].pop("histogram")
    with pytest.raises(fastjsonschema.JsonSchemaValueException, match="histogram"):
        check(report)


@pytest.mark.parametrize(
    ("definition", "described"),
    [
        ("candidate", CandidateVerdict),
        ("case", CaseVerdict),
        ("operation", OperationVerdict),
        ("comparison", Comparison),
        ("drift", Drift),
        ("flip", Flip),
        ("element", Element),
        ("systematic", Systematic),
        ("logit_agreement", LogitAgreement),
        ("margins", RoutingMargins),
        ("diagnosis", Diagnosis),
        ("power", Power),
        ("waiver", Waiver),
    ],
)
def test_the_published_schema_describes_every_figure(definition: str, described: type) -> None:
    schema = json.loads((Path(terminal.__file__).parent / "report.schema.json").read_text())
    undescribed = {field.name for field in fields(described)} - set(schema["definitions"][definition]["properties"])
    assert undescribed == set()


def test_plain_keeps_what_json_can_hold() -> None:
    value = {"a": [1, 2.5, None, "x", True], "b": (math.inf, -math.inf, {"c": math.nan})}
    assert plain(value) == {"a": [1, 2.5, None, "x", True], "b": ["inf", "-inf", {"c": "nan"}]}


def test_the_junit_report_is_well_formed_whatever_the_reasons_say(tmp_path: Path) -> None:
    odd = replace(CRASHED, reason="<\"&'> ü \x85 �")
    write_junit(tmp_path / "run.xml", [verdict(PASSING, odd), verdict(FAILING, name="<b>")])
    root = ET.parse(tmp_path / "run.xml").getroot()  # noqa: S314 - our own report
    first, second = root
    assert (first.get("name"), first.get("tests"), first.get("failures"), first.get("errors")) == (
        "port",
        "3",
        "0",
        "1",
    )
    assert second.get("name") == "<b>"
    assert second.get("failures") == "4"  # the case and three operations
    messages = [failure.get("message") for failure in second.iter("failure")]
    assert f"{CASE}: 12.5 times the fence" in messages
    times = [test.get("time") for test in first.findall("testcase")]
    assert times[0] == "0.500000"


def test_progress_takes_every_case_and_writes_nothing_but_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar(2) as advance:
        advance("port", CASE)
        advance("port", OTHER)
    assert capsys.readouterr() == ("", "")
