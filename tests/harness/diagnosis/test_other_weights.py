from __future__ import annotations

import numpy as np

from grok_conformance.harness.diagnosis import other_weights, recomputed
from grok_conformance.harness.diagnosis.shown_tap import ShownTap
from grok_conformance.harness.graph.oracle import dequantized
from tests.harness.diagnosis.faulty_port import PREFILL, trial_with
from tests.harness.diagnosis.test_recomputed import likened


def scales_of_the_row_before(one: ShownTap) -> tuple[np.ndarray, np.ndarray]:
    name, stored = one.matrices[0], one.exhibit.weights.stored
    weight, scales = stored[f"{name}.weight"], stored[f"{name}.scales"]
    rows = np.maximum(np.arange(weight.shape[-2]) - 1, 0) * scales.shape[-2] // weight.shape[-2]
    read = {f"{name}.weight": weight, f"{name}.scales": scales[..., rows, :]}
    return recomputed.told(one, one.applied(matrices={name: dequantized(one.scope.config, read, name, "published")}))


def test_scales_that_begin_a_row_late_are_told() -> None:
    assert likened("attention.output", scales_of_the_row_before) == "right for scales of the row before"


def test_every_layer_but_its_own_is_asked_for_its_weights() -> None:
    trial = trial_with(PREFILL, "attention.query", lambda x: 2 * x)
    words = [one.words for one in other_weights.with_weights_of_another_layer(trial)]
    assert words == [f"right for the weights of layer {1 - (trial.shown.layer or 0)}"]


def test_scales_of_rows_are_moved_and_those_at_the_end_keep_their_own() -> None:
    scales = np.arange(3.0)[:, None]
    assert other_weights.by_row(scales, 6, 1)[:, 0].tolist() == [0, 0, 0, 1, 1, 2]
    assert other_weights.by_row(scales, 6, -1)[:, 0].tolist() == [0, 1, 1, 2, 2, 2]


def test_scale_groups_are_left_out_or_taken_from_their_neighbour() -> None:
    scales = np.arange(6.0).reshape(3, 2)
    assert other_weights.without(scales, 1).tolist() == [[0, 1], [0, 0], [4, 5]]
    assert other_weights.neighbour(scales, 0).tolist() == [[2, 3], [2, 3], [4, 5]]
    assert other_weights.neighbour(scales, 2).tolist() == [[0, 1], [2, 3], [2, 3]]
