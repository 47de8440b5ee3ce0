"""A run as files: everything is there, in JSON as the published schema says, and in JUnit."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path
from xml.etree import ElementTree as ET

import fastjsonschema
import pytest

from grok_conformance.harness.checks.end_to_end import Drift, Flip
from grok_conformance.harness.checks.logit_agreement import LogitAgreement, RoutingMargins
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.diagnosis.power import Power
from grok_conformance.harness.formats.files import plain
from grok_conformance.harness.judging.reused import EarlierRun, ReusedVerdict
from grok_conformance.harness.judging.told import conformance_digest
from grok_conformance.harness.judging.verdict import CaseVerdict, OperationVerdict
from grok_conformance.harness.judging.waivers import Waiver
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.histogram import Element
from grok_conformance.harness.measure.systematic import Systematic
from grok_conformance.harness.report import files, terminal
from grok_conformance.harness.report.files import read_report, report_of, write_junit, write_report_json
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import (
    CASE,
    CRASHED,
    DRIFT,
    FAILING,
    PASSING,
    REUSED,
    verdict,
)


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


def test_the_json_report_is_what_the_published_schema_says() -> None:
    schema = json.loads((Path(terminal.__file__).parent / "report.schema.json").read_text())
    check = fastjsonschema.compile(schema)
    found = [verdict(PASSING), verdict(FAILING), verdict(CRASHED), REUSED]
    report = json.loads(json.dumps(report_of(found, golden())))
    check(report)
    assert report["candidates"][-1]["reused"] == {"date": "2026-11-28T14:03:59+00:00", "seed": 123, "digest": "d" * 64}
    assert report["candidates"][-1]["digest"] == "d" * 64
    assert "reused" not in report["candidates"][0]
    for name, key in (("comparison", "histogram"), ("case", "margins"), ("candidate", "level")):
        assert key in schema["definitions"][name]["required"]
    report["candidates"][0]["cases"][0]["comparisons"][0].pop("histogram")
    with pytest.raises(fastjsonschema.JsonSchemaValueException, match="histogram"):
        check(report)


@pytest.mark.parametrize(
    ("definition", "described"),
    [
        ("candidate", ReusedVerdict),
        ("reused", EarlierRun),
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
    assert not [*root.iter("property")]
    times = [test.get("time") for test in first.findall("testcase")]
    assert times[0] == "0.500000"


def test_a_suite_whose_verdict_is_of_an_earlier_run_has_a_property_that_says_so(tmp_path: Path) -> None:
    write_junit(tmp_path / "run.xml", [REUSED])
    (found,) = ET.parse(tmp_path / "run.xml").getroot().iter("property")  # noqa: S314 - our own report
    assert (found.get("name"), found.get("value")) == ("reused", "judged 2026-11-28 14:03 UTC with --seed 123")
