"""Histories drawn by a state machine: an honest port is right in all, a wrong one fails in a small one that is told."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.laws.histories import check_histories
from grok_conformance.harness.running.registry import find_candidate

PORT = """
import numpy as np
from grok_conformance.candidates import numpy_float64 as honest

INFO = honest.INFO

class Port(honest.Model):
    {fault}

def load(config, weights):
    model = honest.load(config, weights)
    return Port(model.weights, model.recorded)
"""

SHARED_CUT = """def truncate(self, steps):
        own = self.steps
        super().truncate(np.maximum(own - (own[0] - steps[0]), 1).astype(np.int32))
"""

SILENT = """def __getattribute__(self, name):
        if name == "truncate":
            raise AttributeError(name)
        return super().__getattribute__(name)
"""


def port(fault: str, tmp_path: Path) -> str:
    path = tmp_path / "port.py"
    path.write_text(PORT.format(fault=fault))
    return str(path)


def test_an_honest_port_is_right_in_every_history_of_at_least_eight_calls() -> None:
    wrong, tally = check_histories(find_candidate("numpy_float64"), num_histories=2)
    assert not wrong
    assert tally.num_calls >= 8 * tally.num_histories > 0


def test_a_fault_of_histories_is_found_and_the_calls_are_told(tmp_path: Path) -> None:
    wrong, _ = check_histories(find_candidate(port(SHARED_CUT, tmp_path)), num_histories=8)
    assert "times the fence" in wrong
    assert "truncate to" in wrong


def test_the_command_shows_the_calls_and_what_a_port_declines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = port(SILENT, tmp_path)
    assert main(["properties", "--candidate", name, "--histories", "4"]) == 0
    assert "it declines: the model has no truncate()" in capsys.readouterr().out
