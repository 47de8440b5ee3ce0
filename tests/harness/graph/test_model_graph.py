"""A toy graph is judged by the code that judges Grok-1."""

from __future__ import annotations

from collections.abc import Mapping

from grok_conformance.harness.contract import Array, CandidateInfo
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import judge_candidate
from grok_conformance.harness.judging.summary import summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.answers import Answer
from tests.harness.graph.toy import CONFIG, TOY, case, port, preset


def judged(taps: Mapping[str, Array]) -> CandidateVerdict:
    group = Group(preset(), "bfloat16", (case(),), lambda _case_id: port(), TOY)
    answers = [{case().id: Answer(status="answered", info=CandidateInfo(name="toy", version="1"), taps=taps)}]
    judged = judge_candidate([group], answers, 10**3, {})
    return summarise("toy", [group], answers, judged, 0.0)


def test_an_honest_port_of_a_toy_passes_at_every_operation() -> None:
    found = judged(port())
    assert [(row.operation, row.status) for row in found.operations] == [
        ("start", "pass"),
        ("mixed", "pass"),
        ("end", "pass"),
    ]
    assert [each.status for each in found.cases] == ["pass"]


def test_a_fault_of_a_toy_is_located_in_its_operation_and_layer() -> None:
    found = judged(port(transposed_layer=1))
    assert {row.operation: (row.status, row.layers_at_fault) for row in found.operations} == {
        "start": ("pass", ()),
        "mixed": ("fail", (1,)),
        "end": ("pass", ()),
    }


def test_a_graph_wires_its_operations_by_what_stands_before_them() -> None:
    assert TOY.tap_names(CONFIG) == ("start", "layers.00.mixed", "layers.01.mixed", "end")
    assert TOY.input_taps("layers.00.mixed", CONFIG) == ("start",)
    assert TOY.input_taps("layers.01.mixed", CONFIG) == ("layers.00.mixed",)
    assert TOY.input_taps("end", CONFIG) == ("layers.01.mixed",)
    assert TOY.weight_names("layers.01.mixed", CONFIG) == ("toy/1/matrix",)
    assert (TOY.choice, TOY.scores, TOY.copies) == ("", "", ())
