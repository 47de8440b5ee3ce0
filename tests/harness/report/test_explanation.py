from __future__ import annotations

import math
from dataclasses import replace

import pytest

from grok_conformance.harness.checks.end_to_end import Drift
from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.judging.verdict import by_operation
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic
from grok_conformance.harness.report.explanation import contrast, explain, explain_case, reproduce_row
from grok_conformance.harness.report.reproduction import reproduce
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


def test_a_golden_value_is_told_only_where_there_is_one() -> None:
    assert "expected 1.5\n" in told(UNKNOWN, replace(BAD, expected=1.5))
    assert "expected" not in told(UNKNOWN, replace(BAD, expected=math.nan)).partition("error")[0]


def test_no_known_fault_is_told_only_where_nothing_is_known() -> None:
    assert "no known fault explains this" in told(UNKNOWN, BAD)
    rounded = replace(BAD, note="the values lie on the grid of bfloat16: rounded, though float32")
    assert "no known fault" not in told(UNKNOWN, rounded)
    assert "grid of bfloat16" in told(UNKNOWN, rounded)


@pytest.mark.parametrize(
    ("wrong", "cure"),
    [
        (replace(BAD, problem="shape [2, 6, 8, 12], expected [b, t, q, h] = [2, 6, 12, 8]"), "name the axes"),
        (replace(BAD, problem="960 of 960 values are not finite"), "look for an overflow"),
        (
            replace(BAD, tap="layers.00.moe.expert_index", problem="a more probable expert was left out"),
            "largest first",
        ),
    ],
)
def test_what_no_number_tells_has_a_cure_of_its_own(wrong: Comparison, cure: str) -> None:
    text = told(UNKNOWN, wrong)
    assert "no known fault" not in text
    assert cure in text.partition("change")[2].partition("\n")[0]


def test_a_slot_that_may_not_change_is_told_as_such() -> None:
    text = told(UNKNOWN, replace(BAD, tap="layers.00.kv.keys", tail=math.inf, allowed=0.0))
    assert "where none is allowed\n" in text
    assert "∞" not in text
    assert "change    leave slots as they were" in text


def test_a_bulk_of_nothing_and_a_common_error_beyond_reading_are_not_told() -> None:
    huge = Systematic("gain", 3e37, 1e36, 0.0, 1.0, 6.5)
    assert "bulk" in told(UNKNOWN, replace(BAD, bulk=3.0))
    assert "bulk" not in told(UNKNOWN, replace(BAD, bulk=0.0))
    assert "in common" in told(UNKNOWN, replace(BAD, systematic=(replace(huge, coefficient=3.0, standard_error=0.1),)))
    assert "in common" not in told(UNKNOWN, replace(BAD, systematic=(huge,)))


UNNAMED = replace(
    UNKNOWN,
    resembles="the right values in the reverse order of the heads",
    remedy="look for the stride",
    place="only decode steps",
    relabels=True,
)


def test_a_fault_without_a_name_is_told_by_what_it_resembles_where_it_is_and_what_to_change() -> None:
    text = told(UNNAMED, replace(BAD, note="a note"))
    assert "diagnosis no known fault explains this; the failing values are the right values in the reverse" in text
    assert "change    look for the stride" in text
    assert "where     only decode steps" in text


@pytest.mark.parametrize(("ratio", "kept"), [(0.9, True), (1.1, False)])
def test_a_layout_that_differs_is_no_other_function_where_the_logits_agree(*, ratio: float, kept: bool) -> None:
    ends = (Drift(0, "logits", ratio, (0, 0), 1.0, 1.0, 1.0),)
    case = replace(FAILING, comparisons=(BAD,), drifts=ends)
    rows = by_operation((case,), {case.case: "bfloat16"}, {}, {("bfloat16", BAD.operation): UNNAMED})
    found = replace(verdict(case), operations=rows)
    assert ("the layout differs, the function is kept" in explain(found, rows)) == kept
    assert "the function is kept" not in told(replace(UNNAMED, relabels=False), BAD)


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


def test_a_case_is_told_with_what_it_hangs_on_what_is_wrong_in_it_and_how_to_see_it_with_what_was_drawn() -> None:
    drawn = replace(FAILING, case="unequal/prefill/a~redrawn-7.bfloat16", comparisons=())
    failing = replace(FAILING, cause="history", reason="history: too far")
    text = explain_case(verdict(failing, drawn), failing)
    assert text.startswith("fail: history: too far\n  cause     history, which `explain history` tells of\n")
    assert "  wrong at  attention.key\n" in text
    assert text.endswith(f"  reproduce {reproduce('port', 'unequal/*.bfloat16', seed=7)}")
    assert "  drawn     by seed 7, as unequal/prefill/a~redrawn-7.bfloat16\n" in explain_case(verdict(drawn), drawn)


def test_of_a_port_that_hangs_on_history_the_cases_around_are_asked_for() -> None:
    failing = replace(FAILING, comparisons=(BAD,))
    alone = replace(verdict(failing), operations=by_operation((failing,), {failing.case: "bfloat16"}, {}))
    (row,) = alone.operations
    assert reproduce_row(alone, row) == reproduce("port", failing.case, BAD.operation)
    among = replace(alone, cases=(replace(failing, cause="history"),))
    assert reproduce_row(among, row) == reproduce("port", "unequal/*.bfloat16")
