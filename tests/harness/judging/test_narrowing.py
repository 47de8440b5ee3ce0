from __future__ import annotations

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from tests.harness.wrong_port import CASE, WRONG


def test_a_narrowed_run_finds_what_the_whole_run_finds() -> None:
    whole, narrow = gc.judge(WRONG, CASE), gc.judge(WRONG, CASE, operations="moe.norm")
    (row,) = narrow.verdict.operations
    assert row == next(each for each in whole.verdict.operations if each.operation == "moe.norm")


def test_every_operation_narrowed_to_is_judged_as_in_a_whole_run() -> None:
    whole = gc.judge(numpy_float64, CASE)
    for row in whole.verdict.operations:
        narrow = gc.judge(numpy_float64, CASE, operations=row.operation)
        assert narrow.verdict.operations == (row,)
