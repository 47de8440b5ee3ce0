from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.contract import LanguageModelConfig, Weights
from grok_conformance.harness.formats.files import FileError
from tests.harness.wrong_port import CASE, WRONG


def test_importing_the_package_imports_nothing_else() -> None:
    code = "import sys, grok_conformance as gc; print('numpy' in sys.modules, 'judge' in dir(gc))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert found.stdout.split() == ["False", "True"]


def test_a_name_that_the_package_has_not_is_told_with_those_it_has() -> None:
    with pytest.raises(AttributeError, match=r"no attribute 'jugde'; there are .*judge"):
        gc.jugde  # noqa: B018


def test_an_honest_port_passes_as_a_module_and_by_name() -> None:
    for candidate in (numpy_float64, "numpy_float64"):
        report = gc.judge(candidate, CASE)
        assert report.passed, report
        assert report.failures == ()
        assert report.verdict.level == "caches"


def test_once_all_cases_are_answered_it_is_told_that_they_are_judged(capsys: pytest.CaptureFixture[str]) -> None:
    gc.judge(WRONG, CASE, operations="moe.norm")
    assert ": 1 case answered in " in capsys.readouterr().err


def test_several_patterns_of_cases_are_judged_together() -> None:
    asked = [CASE, "stress/prefill/saturated_cap.float32"]
    report = gc.judge("numpy_float64", asked)
    assert [case.case for case in report.verdict.cases] == asked


def test_a_wrong_port_fails_at_its_operation_and_the_report_shows_it_everywhere() -> None:
    report = gc.judge(WRONG, CASE)
    assert not report.passed
    assert [row.operation for row in report.failures] == ["moe.norm"]
    assert "moe.norm: fail in float32" in str(report)
    assert "moe.norm" in report._repr_html_()


def test_a_narrowed_run_looks_at_one_operation_and_says_so() -> None:
    wrong = gc.judge(WRONG, CASE, operations="moe.norm", layers=0)
    assert [(row.operation, row.layers_at_fault) for row in wrong.verdict.operations] == [("moe.norm", (0,))]
    assert wrong.verdict.summary == "fail, of moe.norm in layer 0 alone"
    elsewhere = gc.judge(WRONG, CASE, operations="moe.norm", layers=1)
    assert elsewhere.passed
    assert elsewhere.verdict.summary == "pass, of moe.norm in layer 1 alone"
    assert elsewhere.verdict.powers == ()  # a narrowed pass promises nothing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"operations": "moe.expert_hiden"}, "did you mean moe.expert_hidden"),
        ({"layers": 7}, "--layer 7: the cases have layers 0 to 1"),
        ({"dtype": "float16"}, "no case .* computes in float16"),
        ({"cases": "unequal/prefil"}, "no case 'unequal/prefil'"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(FileError, match=message):
        gc.judge(numpy_float64, **{"cases": CASE, **arguments})


def test_what_a_candidate_raises_is_raised_where_it_was() -> None:
    def load(_config: LanguageModelConfig, _weights: Weights) -> Any:
        raise ZeroDivisionError("of the port")

    with pytest.raises(ZeroDivisionError, match="of the port"):
        gc.judge(SimpleNamespace(INFO=numpy_float64.INFO, load=load), CASE)


def test_a_run_may_stop_at_the_first_case_that_fails() -> None:
    report = gc.judge(WRONG, "unequal/*.float32", operations="moe.norm", exit_first=True)
    assert [case.status for case in report.verdict.cases] == ["fail"]


def test_an_operation_that_was_not_looked_at_has_no_tensors() -> None:
    with pytest.raises(KeyError, match=r"not looked at; there are moe\.norm"):
        gc.judge(WRONG, CASE, operations="moe.norm").tensors("moe.output")
