from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from grok_conformance.harness.diagnosis import recomputed
from grok_conformance.harness.diagnosis.hypothesis import Make, Trial
from grok_conformance.harness.diagnosis.likeness import likeness_of
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.oracle import dequantized
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, taps_with, trial_with


def likened(operation: str, make: Make, case_id: str = PREFILL) -> str:
    """Return what is said of a port whose values of one operation are those of a hypothesis."""
    right = {(one.call, one.layer): one for one in taps_with(case_id, operation, lambda x: x)}
    given = iter([make(one)[0] for _, one in sorted(right.items())])
    return likeness_of(taps_with(case_id, operation, lambda _: next(given))).words


def other_layer(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name = one.matrices[0]
    other = name.replace("_0/", "_x/").replace("_1/", "_0/").replace("_x/", "_1/")
    return recomputed.told(one, one.applied(matrices={name: one.weight(other)}))


def next_scales(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name, stored = one.matrices[0], one.exhibit.weights.stored
    read = {f"{name}.weight": stored[f"{name}.weight"], f"{name}.scales": np.roll(stored[f"{name}.scales"], 1, -2)}
    return recomputed.told(one, one.applied(matrices={name: dequantized(one.scope.config, read, name, "published")}))


def next_expert(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name = one.inputs[1]
    return recomputed.told(one, one.applied(inputs={name: (one.values[name] + 1) % 5}))


def from_residual(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name = one.inputs[0]
    return recomputed.told(one, one.applied(inputs={name: one.values[name.replace("moe.norm", "attention.residual")]}))


def without_gates(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name = one.inputs[0]
    return recomputed.told(
        one, one.applied(inputs={name: np.full_like(one.values[name], 1 / one.values[name].shape[-1])})
    )


@pytest.mark.parametrize(
    ("operation", "make", "words"),
    [
        ("moe.output", without_gates, "right for moe.expert_gate taken as the same for all choices"),
        ("attention.output", next_scales, "right for scales shifted by 1 group"),
        ("moe.expert_activation", next_expert, "right for the expert after the chosen one"),
        ("router.logits", from_residual, "right for attention.residual in place of moe.norm"),
    ],
)
def test_what_an_operation_was_applied_to_is_told(operation: str, make: Make, words: str) -> None:
    assert words in likened(operation, make)


def test_the_weights_of_another_layer_are_told() -> None:
    first = taps_with(PREFILL, "attention.query", lambda x: x)[0]
    value = other_layer(first)[0].astype(np.float32)
    found = likeness_of(taps_with(PREFILL, "attention.query", lambda _: value, layers="0"))
    assert found.words == "right for the weights of layer 1"


def test_another_position_is_told() -> None:
    make = next(x.make for x in recomputed.at_another_step(_trial()) if x.words == "right for positions from 0")
    assert likened("attention.query_rotated", make, DECODE).split(" (or ")[0] in (
        "the values of attention.query",
        "right for positions from 0",
    )


def _trial() -> Trial:
    return trial_with(PREFILL, "attention.query_rotated", lambda x: 2 * x)


def without_first_choice(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name = one.inputs[0]
    return recomputed.told(one, one.applied(inputs={name: one.values[name] * [0, 1]}))


def test_tokens_that_lack_an_expert_are_told() -> None:
    assert "right without one of the chosen experts" in likened("moe.output", without_first_choice)


def test_a_window_of_keys_is_told() -> None:
    trial = trial_with(PREFILL, "attention.weights", lambda x: 2 * x)
    (two,) = [one for one in recomputed.in_a_window(replaced(trial)) if one.words.endswith("last 2 keys are seen")]
    assert likened("attention.weights", two.make).split(" (or ")[0] == "right where only the last 2 keys are seen"


def replaced(trial: Trial) -> Trial:
    """Return a trial in which queries fail that see three keys or more."""
    shown = trial.shown
    many = shown.scope.visible.sum(-1)[:, None, None, :, None] > 2
    return Trial(replace(shown, wrong=np.broadcast_to(many, shown.observed.shape)), trial.at, trial.faint)
