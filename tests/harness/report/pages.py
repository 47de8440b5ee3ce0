"""Reports whose pages are looked at."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.measure.histogram import EDGES, Element
from grok_conformance.harness.report.files import report_of
from grok_conformance.harness.report.html import render
from tests.harness.honest_port import golden
from tests.harness.report.verdicts import BAD, FAILING, GOOD, verdict

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
