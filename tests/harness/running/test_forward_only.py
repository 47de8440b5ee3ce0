from __future__ import annotations

from typing import Any

import numpy as np

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.contract import Array, LanguageModelConfig, Weights
from tests.harness.wrong_port import CASE


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
