from __future__ import annotations

import pytest

from grok_conformance.candidates.torch_eager import model, operations
from grok_conformance.harness.running.in_process import adapter_of
from tests.benchmarks.peers import Deviation, deviation_of


def test_the_oracle_itself_deviates_in_nothing() -> None:
    found = deviation_of(adapter_of("numpy_float64"))
    assert str(found) == "no operation fails"
    assert found.drift < 1


def test_a_port_with_faults_is_told_the_operations_and_how_far_its_logits_err(monkeypatch: pytest.MonkeyPatch) -> None:
    for module, name in ((model, "decoder_layer"), (operations, "apply_scales"), (operations, "gelu")):
        monkeypatch.setattr(module, name, getattr(module, name))  # the port replaces it in this process: put back
    found = deviation_of(adapter_of("tests/conformance/broken_port.py"))
    assert found.operations == ("moe.expert_hidden",)  # where a group of scales is a whole column, they have one fault
    assert found.drift > 1


def test_a_deviation_in_words() -> None:
    text = "embedding, logits fail; its logits err 2,200 times as much as honest rounding may"
    assert str(Deviation(("embedding", "logits"), 2200.4, 0)) == text
    assert str(Deviation(("embedding", "logits"), 2200.4, 3)) == f"{text}, 3 choices of experts without excuse"
