from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.diagnosis.matched_filter import Diagnosis
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.judging.verdict import by_operation
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.report.explanation import contrast, explain, reproduce_row
from tests.harness.report.verdicts import BAD, FAILING, verdict

UNKNOWN = Diagnosis((), "", 0.0, 0.0, 0.0, 0.0, "no fault")


def told(diagnosis: Diagnosis, *comparisons: Comparison) -> str:
    case = replace(FAILING, comparisons=comparisons)
    dtypes = {case.case: "bfloat16"}
    rows = by_operation((case,), dtypes, {}, {("bfloat16", c.operation): diagnosis for c in comparisons})
    found = replace(verdict(case), operations=rows)
    return explain(found, [found.operations[-1]])


def found_of(faults: str) -> Diagnosis:
    return Diagnosis((faults,), faults, 1.0, 0.01, 0.97, 8.0, "no fault")


def test_a_named_fault_is_told_with_what_to_change() -> None:
    assert f"change    {FAULTS['gqa_tiled'].remedy}" in told(found_of("gqa_tiled"), BAD)


def test_no_known_fault_is_told_only_where_nothing_is_known() -> None:
    assert "no known fault explains this" in told(UNKNOWN, BAD)
    rounded = replace(BAD, note="the values lie on the grid of bfloat16: rounded, though float32")
    assert "no known fault" not in told(UNKNOWN, rounded)
    assert "grid of bfloat16" in told(UNKNOWN, rounded)


def test_an_operation_with_the_fault_of_an_earlier_one_follows_from_it() -> None:
    later = replace(BAD, tap="layers.01.attention.heads")
    assert "follows   from what is wrong at attention.key" in told(found_of("gqa_tiled"), BAD, later)
    assert "follows" not in told(found_of("gqa_tiled"), BAD)


def test_failing_cases_are_told_by_what_they_alone_have_in_common() -> None:
    good = replace(BAD, tail=0.5, bulk=0.5, systematic=())
    kinds = {"x/prefill/a.bfloat16": good, "x/decode/a.bfloat16": BAD, "y/decode/b.bfloat16": BAD}
    cases = [replace(FAILING, case=case, comparisons=(c,)) for case, c in kinds.items()]
    rows = by_operation(cases, dict.fromkeys(kinds, "bfloat16"), {})
    found = replace(verdict(FAILING), cases=tuple(cases), operations=rows)
    assert contrast(found, rows[0]) == "2 of 3 cases in bfloat16, exactly those with area decode"
    assert "x/decode/a.bfloat16" in reproduce_row(found, rows[0])
