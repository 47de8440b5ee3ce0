"""Predictions: what is exact at the inputs a port used, and what a fault would have given there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pytest

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import Array
from grok_conformance.harness.diagnosis import prediction
from grok_conformance.harness.diagnosis.prediction import Prediction, predict
from grok_conformance.harness.faults import FAULTS, Fault, mutant
from grok_conformance.harness.graph.oracle import Evaluator, ExactWeights
from grok_conformance.harness.graph.rounding import RoundingPlan
from grok_conformance.harness.graph.row import Exact, Scope
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, golden_taps

CASE = "unequal/prefill/padded_batch.float32"
ERF = {"gelu_erf": FAULTS["gelu_erf"]}


def predictions(patterns: tuple[str, ...] = ("*",), **layers: tuple[int, ...]) -> list[Prediction]:
    preset, case = golden_case(CASE)
    evidence = evidence_of(CASE, golden_taps(CASE), patterns)
    exhibit = Exhibit(preset, case, evidence, exact_weights(preset.name, "float32"))
    return list(predict(exhibit, {name.replace("__", "."): chosen for name, chosen in layers.items()}, ERF))


def test_a_prediction_is_made_for_every_layer_or_for_those_asked_for() -> None:
    assert [one.key[1] for one in predictions(moe__expert_hidden=(1,))] == ["layers.01.moe.expert_hidden"]
    assert len(predictions(moe__expert_hidden=())) == golden_case(CASE)[0].config.model.num_layers


def test_a_fault_is_predicted_where_it_acts_and_equals_the_exact_result_elsewhere() -> None:
    (hidden,) = predictions(moe__expert_hidden=(0,))
    assert hidden.operation == "moe.expert_hidden"
    assert not np.array_equal(hidden.faulty["gelu_erf"].value, hidden.exact.value)
    (norm,) = predictions(moe__norm=(0,))
    assert all(np.array_equal(each.value, norm.exact.value) for each in norm.faulty.values())


def test_scores_come_with_the_choice_of_experts_and_noise_with_hidden_taps() -> None:
    _, choice = predictions(router__probabilities=(0,), moe__expert_index=(0,))
    assert choice.probabilities is not None
    assert choice.noise is None
    hiding = predictions(("layers.*.moe.norm", "layers.*.moe.output"), moe__output=(0,))
    assert hiding[0].probabilities is None
    assert hiding[0].noise is not None
    assert hiding[0].noise.max() > 0


def test_what_comes_before_a_fault_is_worked_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    hiding = ("layers.*.moe.norm", "logits")
    worked_out = Counter[str]()

    def counting(fault: Fault) -> Evaluator:
        def count(
            tap: str, scope: Scope, weights: ExactWeights, values: Mapping[str, Array], plan: RoundingPlan
        ) -> Exact:
            worked_out[tap] += 1
            return mutant(fault)(tap, scope, weights, values, plan)

        return count

    monkeypatch.setattr(prediction, "mutant", counting)
    again = predictions(hiding, logits=())
    assert not any(tap.startswith(("embedding", "layers.00.attention")) for tap in worked_out)
    assert worked_out["layers.00.moe.expert_hidden"] == worked_out["logits"] == 1
    monkeypatch.setattr(prediction, "remembered", lambda evaluator, *_: evaluator)
    for one, other in zip(predictions(hiding, logits=()), again, strict=True):
        assert np.array_equal(one.faulty["gelu_erf"].value, other.faulty["gelu_erf"].value)
