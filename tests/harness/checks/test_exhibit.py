"""An exhibit: one answered case as all checks are given it."""

from __future__ import annotations

from grok_conformance.harness.checks.exhibit import Ways, exhibit_of
from grok_conformance.harness.contract import CandidateInfo
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.measure.comparison import Comparison
from tests.harness.honest_port import golden_case, golden_taps

CASE = "unequal/decode/unequal_lengths.float32"
ALL, FEW = (CandidateInfo(name="port", version="1", taps=taps) for taps in (("*",), ("logits", "*.moe.norm")))


def test_what_was_shown_is_looked_up_and_what_was_not_is_none() -> None:
    preset, case = golden_case(CASE)
    exhibit = exhibit_of(preset, case, FEW, golden_taps(CASE))
    shown = exhibit.look(0, "logits")
    assert shown is not None
    assert shown.shape == golden_taps(CASE)["call0/logits"].shape
    assert exhibit.look(0, "embedding") is None
    assert exhibit.hides_taps
    assert not exhibit_of(preset, case, ALL, golden_taps(CASE)).hides_taps


def test_a_comparison_belongs_to_a_row_of_the_graph_and_to_a_phase() -> None:
    preset, case = golden_case(CASE)
    exhibit = exhibit_of(preset, case, ALL, golden_taps(CASE))
    assert exhibit.row_of(Comparison(0, "layers.01.moe.output", 1)) == "moe.output"
    assert [exhibit.phase(Comparison(call, "logits", 1)) for call in (0, 1)] == ["prefill", "decode"]


def test_ways_are_told_in_words_and_the_published_way_in_none() -> None:
    ways = Ways(readings={("decode", "moe.output", "moe.expert_gate"): "carried"})
    assert ways.describe(GROK_1.by_name["moe.output"]) == "moe.expert_gate carried in decode"
    assert ways.describe(GROK_1.by_name["moe.norm"]) == ""


def test_what_was_read_in_one_phase_alone_may_have_been_read_in_all() -> None:
    edge = ("moe.norm", "attention.residual")
    (alike,) = Ways(readings={("prefill", *edge): "measured"}).with_one_alike()
    assert alike.readings == {("prefill", *edge): "measured", ("decode", *edge): "measured"}
    assert not list(alike.with_one_alike())
