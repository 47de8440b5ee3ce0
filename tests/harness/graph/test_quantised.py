"""Declared quantisations: the graph of a port that keeps or multiplies operands in fewer bits, as it says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.contract import QUANTISATIONS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.quantised import QUANTISERS, declared, int8
from tests.fault_detection.honest.runs import groups_of, verdict_of
from tests.fault_detection.honest.zoo import ZOO

CASE = "unequal/prefill/padded_batch.bfloat16"
DECLARED = ("kv_int8_declared", "w8a8_o_declared", "qk_int8_declared", "p_fp8_declared", "fresh_int8_declared")


def test_every_quantisation_that_info_may_name_is_known() -> None:
    assert set(QUANTISERS) == set(QUANTISATIONS)


def test_only_what_is_declared_is_another_function_and_the_first_glob_wins() -> None:
    graph = declared(GROK_1, {"*.kv.keys": "fp8", "layers.*.kv.*": "int8", "*.moe.expert_output": "int8"})
    changed = [row.name for row, was in zip(graph.operations, GROK_1.operations, strict=True) if row != was]
    assert changed == ["kv.keys", "kv.values", "moe.expert_output"]
    assert graph.by_name["kv.keys"].function.keywords["quantise"] is QUANTISERS["fp8"]  # type: ignore[attr-defined]
    assert declared(GROK_1, {}).operations == GROK_1.operations


def test_norms_and_the_router_cannot_be_declared() -> None:
    assert declared(GROK_1, {"*.norm": "int8", "*.router.logits": "int8"}).operations == GROK_1.operations


def test_a_nudge_moves_only_what_lies_between_two_steps() -> None:
    x = np.array([127.0, 63.5, 3.2, -10.9])
    assert np.array_equal(int8(x, 0.0), [127, 64, 3, -11])
    assert np.array_equal(int8(x, -1e-6), [127, 63, 3, -11])


@pytest.mark.parametrize("name", DECLARED)
def test_a_quantisation_passes_where_it_is_declared_and_nowhere_else(name: str) -> None:
    groups = groups_of(CASE, "bfloat16")
    way = ZOO[name]
    passed = verdict_of(way, groups)
    assert passed.passed
    assert "quantised as declared" in passed.summary
    assert not passed.as_published
    assert not verdict_of(replace(way, info={}), groups).passed


def test_another_quantisation_than_the_declared_one_fails() -> None:
    way = replace(ZOO["kv_int8_declared"], info={"quantised": {"*.kv.*": "fp8"}})
    assert not verdict_of(way, groups_of(CASE, "bfloat16")).passed
