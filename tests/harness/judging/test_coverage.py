from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.harness.cases.case import Call
from grok_conformance.harness.contract import Array
from grok_conformance.harness.judging.coverage import TRIGGERS, Coverage, counted, coverage, describe, of_sizes
from grok_conformance.harness.running.answers import Answer
from tests.harness.honest_port import answered, group_of, honest_taps

DECODE, PREFILL = "unequal/decode/unequal_lengths.float32", "unequal/prefill/padded_batch.float32"


def found(tmp_path: Path) -> dict[str, Coverage]:
    answer = answered(tmp_path, honest_taps(DECODE, 3), reruns={"again": {"call0/logits": np.zeros(1)}})
    refused = Answer(status="unsupported", reason="no")
    return {each.trigger: each for each in coverage([group_of(DECODE, PREFILL)], [{DECODE: answer, PREFILL: refused}])}


def test_what_answered_cases_exercised_is_told_by_trigger(tmp_path: Path) -> None:
    of = found(tmp_path)
    assert set(of) == {*(trigger.name for trigger in TRIGGERS), "orders of calls", "further runs"}
    assert (of["tokens of a row in a call"].least, of["tokens of a row in a call"].most) == (4, 6)
    assert (of["steps in the cache"].least, of["steps in the cache"].most) == (4, 7)
    assert of["rows of a batch"].met == ("2",)
    assert "15" in of["steps in the cache"].not_met
    assert of["decoding steps"].met == ("2",)
    assert of["orders of calls"].met == ("prefill then decode", "decode then decode")
    assert of["further runs"].met == ("again",)
    assert of["terms of a sum"].most == 160
    assert of["tokens of an expert"].most > 0


def test_known_faults_that_show_only_beyond_what_was_exercised_are_named(tmp_path: Path) -> None:
    assert "rope_position_bf16" in found(tmp_path)["steps in the cache"].faults


def test_sizes_that_were_met_in_one_compute_dtype_alone_are_told() -> None:
    rows = next(trigger for trigger in TRIGGERS if trigger.name == "rows of a batch")
    told = of_sizes(rows, {"float32": {1, 2, 3}, "bfloat16": {2}})
    assert told.met == ("1", "2", "3")
    assert told.in_one == ("1", "3")
    assert of_sizes(rows, {"float32": {1, 2}}).in_one == ()


def test_pads_are_no_tokens_of_an_expert() -> None:
    call = Call("prefill", np.ones((1, 3), np.int32), np.array([2], np.int32))
    index: Array = np.array([[[0, 1], [0, 2], [3, 3]]])
    assert list(counted(index, call, 4)) == [2, 1, 1, 0]
    assert not list(counted(index[:, :2], call, 4))


def test_a_row_of_the_certificate_is_a_few_words() -> None:
    sizes = Coverage(trigger="layers", least=1, most=3, met=("1",), not_met=("12",), faults=("x",))
    assert describe(sizes) == "layers 1 to 3, not 12; unseen x"
    many = replace(sizes, faults=("v", "w", "x", "y", "z"))
    assert describe(many) == "layers 1 to 3, not 12; unseen v, w, x and 2 more"
    assert describe(Coverage(trigger="layers", least=0, most=0, met=(), not_met=("1",))) == "layers none, not 1"
    assert describe(replace(sizes, in_one=("1",))) == "layers 1 to 3, not 12 (1 in one compute dtype); unseen x"
    orders = Coverage(trigger="further runs", least=0, most=1, met=("again",), not_met=())
    assert describe(orders) == "further runs again"
