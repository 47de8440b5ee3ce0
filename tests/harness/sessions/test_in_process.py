from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.contract import Array, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.tensors import open_tensors

CASE = "unequal/prefill/padded_batch.float32"
SCALE = "transformer/decoder_layer_0/rms_norm_2/scale"
"""Of `moe.norm` in layer 0."""


def load_wrong(config: LanguageModelConfig, weights: Weights) -> Any:
    """Load the oracle with 1 + γ for γ in one norm, a fault of ports of other models."""
    return numpy_float64.load(config, {**weights, SCALE: 1 + weights[SCALE]})


WRONG = SimpleNamespace(INFO=numpy_float64.INFO, load=load_wrong)


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


def test_a_narrowed_run_finds_what_the_whole_run_finds() -> None:
    whole, narrow = gc.judge(WRONG, CASE), gc.judge(WRONG, CASE, operations="moe.norm")
    (row,) = narrow.verdict.operations
    assert row == next(each for each in whole.verdict.operations if each.operation == "moe.norm")


def test_every_operation_narrowed_to_is_judged_as_in_a_whole_run() -> None:
    whole = gc.judge(numpy_float64, CASE)
    for row in whole.verdict.operations:
        narrow = gc.judge(numpy_float64, CASE, operations=row.operation)
        assert narrow.verdict.operations == (row,)


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


def test_what_a_candidate_declines_is_unsupported() -> None:
    def load(_config: LanguageModelConfig, _weights: Weights) -> Any:
        raise Unsupported("no such width")

    report = gc.judge(SimpleNamespace(INFO=numpy_float64.INFO, load=load), CASE)
    assert [(case.status, case.reason) for case in report.verdict.cases] == [("unsupported", "no such width")]


def test_a_run_may_stop_at_the_first_case_that_fails() -> None:
    report = gc.judge(WRONG, "unequal/*.float32", operations="moe.norm", exit_first=True)
    assert [case.status for case in report.verdict.cases] == ["fail"]


def test_a_function_of_tokens_is_judged_through_its_tap_map() -> None:
    def load(config: LanguageModelConfig, weights: Weights) -> Any:
        model = numpy_float64.load(config, weights)

        def forward(tokens: Array) -> Array:
            lengths = (tokens > config.pad_token).sum(-1).astype(np.int32)
            return model.prefill(tokens, lengths, ["logits"])["logits"]

        return forward

    report = gc.judge(load, CASE, taps=[gc.TapSource("logits", engine="output", axes="b t v")])
    assert report.passed, report
    assert report.verdict.level == "logits"
    decoding = gc.judge(load, "unequal/decode/pad_token.float32", taps=[gc.TapSource("logits", "output", "b t v")])
    assert [case.status for case in decoding.verdict.cases] == ["unsupported"]


def test_a_load_function_without_a_tap_map_is_told_to_give_one() -> None:
    with pytest.raises(TypeError, match="taps="):
        gc.judge(load_wrong, CASE)


def test_the_tensors_of_an_operation_say_what_the_report_says() -> None:
    report = gc.judge(WRONG, CASE, operations="moe.norm")
    (row,) = report.failures
    found = report.tensors("moe.norm")
    ratio = np.where(found["mask"], abs(found["error"]) / found["fence"], 0)
    assert ratio.max() == pytest.approx(row.worst.tail)
    assert np.unravel_index(ratio.argmax(), ratio.shape) == row.worst.index
    assert found["expected"][row.worst.index] == row.worst.expected
    assert {f"input/{tap}" for tap in ("layers.00.attention.residual",)} < set(found)
    assert f"weight/{SCALE}" in found


def test_dumped_tensors_are_those_of_the_report_and_nothing_is_overwritten(tmp_path: Path) -> None:
    report = gc.judge(WRONG, CASE, operations=["moe.norm", "moe.output"])
    (path,) = report.dump(tmp_path / "dump")
    assert path.name == "moe.norm.float32.safetensors"
    for name, x in open_tensors(path).items():
        np.testing.assert_array_equal(x, report.tensors("moe.norm")[name])
    with pytest.raises(FileError, match="exists already"):
        report.dump(tmp_path / "dump")
    assert len(report.dump(tmp_path / "all", passing=True)) == 2


def test_an_operation_that_was_not_looked_at_has_no_tensors() -> None:
    with pytest.raises(KeyError, match=r"not looked at; there are moe\.norm"):
        gc.judge(WRONG, CASE, operations="moe.norm").tensors("moe.output")
