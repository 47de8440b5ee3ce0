from __future__ import annotations

import html
import math
from dataclasses import replace

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.harness.contract import DTYPES, Array, split_tap
from grok_conformance.harness.graph.grok_1 import GROK_1
from tests.harness.honest_port import golden_case, golden_taps

RANDOM = np.random.default_rng(0)
ACTIVATION, UP = RANDOM.normal(size=(2, 1, 8, 2, 64)).astype(np.float32)
INPUTS = {"moe.expert_activation": ACTIVATION, "moe.expert_up": UP}


def gelu_tanh(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def gelu_erf(x: Array) -> Array:
    y: Array = 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))
    return y.astype(x.dtype)


def test_an_honest_kernel_passes_and_a_wrong_one_is_named() -> None:
    assert gc.check_operation("moe.expert_hidden", INPUTS, gelu_tanh(ACTIVATION) * UP, dtype="float32").passed
    report = gc.check_operation("moe.expert_hidden", INPUTS, gelu_erf(ACTIVATION) * UP, dtype="float32")
    assert not report.passed
    assert "likely gelu_erf" in str(report)


@pytest.mark.parametrize(
    "operation",
    ["attention.norm", "attention.query_rotated", "attention.logits", "attention.weights", "attention.heads",
     "router.probabilities", "moe.expert_index", "moe.expert_gate", "moe.expert_hidden", "moe.expert_output", "output"],
)  # fmt: skip
def test_golden_values_pass_as_observed(operation: str) -> None:
    case_id = "unequal/prefill/padded_batch.float32"
    preset, case = golden_case(case_id)
    taps, tap = golden_taps(case_id), f"layers.01.{operation}"
    row = GROK_1.operation_of(tap, preset.config)
    named = zip(row.inputs, GROK_1.input_taps(tap, preset.config), strict=True)
    weights = {
        short + part: preset.weights[full + part]
        for short, full in zip(row.weights, GROK_1.weight_names(tap, preset.config), strict=True)
        for part in ("", ".weight", ".scales")
        if full + part in preset.weights
    }
    call = case.calls[0]
    report = gc.check_operation(
        operation,
        {name: taps[f"call0/{full}"] for name, full in named},
        taps[f"call0/{tap}"],
        weights=weights,
        dtype="float32",
        config=preset.config,
        tokens=call.tokens,
        mask=np.arange(call.tokens.shape[1]) < call.lengths[:, None],
    )
    assert split_tap(report.comparison.tap) == (0, operation)
    assert report.comparison.num_elements > 0
    assert report.passed, report


def test_a_wrong_shape_is_told() -> None:
    report = gc.check_operation("moe.expert_hidden", INPUTS, (gelu_tanh(ACTIVATION) * UP)[..., :3], dtype="float32",
                                config=golden_case("unequal/prefill/padded_batch.float32")[0].config)  # fmt: skip
    assert not report.passed
    assert "shape [1, 8, 2, 3], expected [1, 8, 2, 64]" in str(report)


@pytest.mark.parametrize(
    ("operation", "inputs", "message"),
    [
        ("moe.expert_hiden", INPUTS, "did you mean moe.expert_hidden"),
        ("moe.expert_hidden", {"moe.expert_up": UP}, "it reads moe.expert_activation, moe.expert_up"),
        ("moe.expert_hidden", {**INPUTS, "moe.expert_up": UP[..., :2]}, "axis f has size 2, elsewhere 64"),
        ("moe.expert_hidden", {**INPUTS, "moe.expert_up": UP[0]}, r"expected \[b, t, c, f\]"),
        ("attention.norm", {"residual_stream": ACTIVATION[..., 0]}, "weights need rms_norm/scale"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_refused(operation: str, inputs: dict[str, Array], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gc.check_operation(operation, inputs, ACTIVATION if "hid" in operation else ACTIVATION[..., 0])


def test_the_oracle_gives_every_tap_as_the_golden_set_has_it_but_for_rounding() -> None:
    case_id = "unequal/prefill/padded_batch.float32"
    preset, case = golden_case(case_id)
    call, golden = case.calls[0], golden_taps(case_id)
    exact = gc.oracle(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights, call.tokens, call.lengths)
    assert {f"call0/{tap}" for tap in exact} == set(golden)
    real = np.arange(call.tokens.shape[1]) < call.lengths[:, None]
    np.testing.assert_allclose(exact["logits"][real], golden["call0/logits"].astype(np.float64)[real], atol=1e-4)
    assert exact["logits"].dtype == np.float64
    assert DTYPES["float32"] == golden["call0/logits"].dtype


def test_a_kernel_with_a_fault_that_no_row_knows_is_told_what_its_values_are_right_for_and_where() -> None:
    wrong = (gelu_tanh(ACTIVATION) * UP).copy()
    wrong[..., 0, :] *= 0.5
    report = gc.check_operation("moe.expert_hidden", INPUTS, wrong, dtype="float32")
    assert "the failing values are the right values times 0.5; only choice 0" in str(report)
    assert "change    look for that factor" in str(report)


def test_a_notebook_shows_a_report_as_it_is_printed() -> None:
    report = gc.check_operation("moe.expert_hidden", INPUTS, gelu_tanh(ACTIVATION) * UP * 2, dtype="float32")
    assert html.unescape(report._repr_html_()) == f'<pre style="line-height:1.3">{report}</pre>'
