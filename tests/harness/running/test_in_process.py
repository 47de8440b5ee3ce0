from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.contract import LanguageModelConfig, Unsupported, Weights
from tests.harness.wrong_port import CASE, load_wrong


def test_what_a_candidate_declines_is_unsupported() -> None:
    def load(_config: LanguageModelConfig, _weights: Weights) -> Any:
        raise Unsupported("no such width")

    report = gc.judge(SimpleNamespace(INFO=numpy_float64.INFO, load=load), CASE)
    assert [(case.status, case.reason) for case in report.verdict.cases] == [("unsupported", "no such width")]


def test_a_load_function_without_a_tap_map_is_told_to_give_one() -> None:
    with pytest.raises(TypeError, match="taps="):
        gc.judge(load_wrong, CASE)
