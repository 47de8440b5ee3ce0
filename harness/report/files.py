"""A run as files: JSON for programs, JUnit for CI."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.formats.files import MAX_REPORT_BYTES, FileError, plain, read_json, whole_file
from grok_conformance.harness.formats.schema import validate_by
from grok_conformance.harness.golden.provenance import record_platform, record_toolchain
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.reused import ReusedVerdict
from grok_conformance.harness.judging.told import told_of
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.measure.words import times
from grok_conformance.harness.report.reproduction import command_typed
from grok_conformance.harness.running.registry import source_of
from grok_conformance.harness.running.source_commit import source_commit

Report = Mapping[str, Any]
"""A run as parsed JSON; `report.schema.json` describes it."""

FORMAT = 1

SCHEMA = Path(__file__).with_name("report.schema.json")


def write_report_json(path: Path, report: Report) -> None:
    """Write everything that was found, in one line."""
    text = json.dumps(report, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    with whole_file(path) as file:
        file.write(f"{text}\n".encode())


def report_of(
    verdicts: Sequence[CandidateVerdict], golden: Golden, regressions: Mapping[str, Any] | None = None
) -> Report:
    """Return everything that was found, as JSON holds it; numbers that it cannot hold (infinity, NaN) are strings.

    `regressions` are comparisons with baselines, by candidate.
    """
    return {
        "format": FORMAT,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": golden.manifest.suite,
        "golden": plain(golden.manifest.provenance),
        "provenance": {
            "toolchain": record_toolchain(),
            "platform": record_platform(),
            "command": command_typed(sys.argv, os.environ),
        },
        "candidates": [
            {
                "status": verdict.status,
                "summary": verdict.summary,
                "digest": told.digest,
                "commit": "" if (source := source_of(verdict.name)) is None else source_commit(source),
                **told.found,
                "regression": plain((regressions or {}).get(verdict.name)),
            }
            for verdict in verdicts
            for told in [told_of(verdict)]
        ],
    }


def read_report(path: Path) -> Report:
    """Read what `write_report_json` wrote; raises FileError for a file that holds no report of this format."""
    data: Report = read_json(path, MAX_REPORT_BYTES)
    try:
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise ValueError("another format, or none")
        validate_by(data, SCHEMA)
        datetime.fromisoformat(data["date"])
        if unknown := {split_tap(tap)[1] for tap in named_taps(data)} - set(SPECS):
            raise ValueError(f"{min(unknown)!a} is no operation")
    except ValueError as error:
        remedy = f"write it with `python -m grok_conformance run --json {path}`"
        raise FileError(f"{path}: no report of format {FORMAT}: {error}: {remedy}") from None
    return data


def named_taps(report: Report) -> Iterator[str]:
    """Yield the taps and operations that the figures of a report are of."""
    for candidate in report["candidates"]:
        yield from (operation["operation"] for operation in candidate["operations"])
        yield from (operation["worst"]["tap"] for operation in candidate["operations"])
        for case in candidate["cases"]:
            yield from (figure["tap"] for figure in (*case["comparisons"], *case["drifts"]))


def write_junit(path: Path, verdicts: Sequence[CandidateVerdict]) -> None:
    """Write one test suite per candidate: a test for every case, and one for every operation and compute dtype."""
    root = ET.Element("testsuites", name="conformance")
    for verdict in verdicts:
        suite = ET.SubElement(root, "testsuite", name=verdict.name)
        if isinstance(verdict, ReusedVerdict):
            properties = ET.SubElement(suite, "properties")
            ET.SubElement(properties, "property", name="reused", value=f"judged {verdict.reused}")
        for case in verdict.cases:
            status = "waived" if case.does_not_count else case.status
            reason = case.reason or "; ".join(case.waived)
            add_test(suite, f"{verdict.name}.cases", case.case, status, reason, case.seconds)
        for row in verdict.operations:
            name = f"{row.operation}[{row.fprop_dtype}]"
            told = row.worst.problem or f"{times(row.worst.ratio)} times the fence"
            reason = row.worst.waived or f"{row.worst_case}: {told}"
            add_test(suite, f"{verdict.name}.operations", name, row.status, reason, None)
        tests = suite.findall("testcase")
        suite.set("tests", str(len(tests)))
        suite.set("failures", str(len(suite.findall("testcase/failure"))))
        suite.set("errors", str(len(suite.findall("testcase/error"))))
    with whole_file(path) as file:
        ET.ElementTree(root).write(file, encoding="utf-8", xml_declaration=True)


def add_test(suite: ET.Element, group: str, name: str, status: str, reason: str, seconds: float | None) -> None:
    """Add one test; whatever is no pass is a failure, an error where there is no answer, skipped where it is waived."""
    test = ET.SubElement(suite, "testcase", classname=group, name=name)
    if seconds is not None:
        test.set("time", f"{seconds:.6f}")
    if status != "pass":
        kind = {"error": "error", "waived": "skipped", "quirk": "skipped"}.get(status, "failure")
        ET.SubElement(test, kind, type=status, message=reason)
