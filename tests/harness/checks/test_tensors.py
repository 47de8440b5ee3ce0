from __future__ import annotations

import numpy as np
import pytest

import grok_conformance as gc
from tests.harness.wrong_port import CASE, SCALE, WRONG


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
