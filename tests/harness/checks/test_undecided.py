"""Where a hidden choice of experts is undecided, and what hangs on it."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.checks.evidence import Key
from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.checks.undecided import (
    boundary_gap,
    decided,
    in_slots,
    open_to_choice,
    seen_by,
    undecided_choices,
)
from grok_conformance.harness.contract import Array
from tests.harness.honest_port import evidence_of, exact_weights, golden_case, golden_taps

CASE = "unequal/decode/unequal_lengths.bfloat16"
"""Two rows of unequal lengths in a first call, and two decoding steps; two layers."""


def test_the_gap_is_that_between_the_last_chosen_expert_and_the_first_left_out() -> None:
    probabilities = np.array([[[0.4, 0.1, 0.3, 0.15, 0.05]]])
    k = UNEQUAL.model.num_selected_experts
    ordered = np.sort(probabilities[0, 0])[::-1]
    assert math.isclose(boundary_gap(probabilities, UNEQUAL)[0, 0], ordered[k - 1] - ordered[k])


def test_where_all_experts_are_chosen_no_gap_is_too_small() -> None:
    k = UNEQUAL.model.num_selected_experts
    assert np.isinf(boundary_gap(np.full((1, 2, k), 1 / k), UNEQUAL)).all()


def hanging(at: tuple[int, int, int, int], shows: Collection[str] = ("logits",)) -> dict[Key, list[list[int]]]:
    """Return what hangs on the choice of one (call, layer, row, token), as lists of (row, token or slot)."""
    preset, case = golden_case(CASE)
    exhibit = Exhibit(preset, case, evidence_of(CASE, golden_taps(CASE), shows), exact_weights(preset.name, "bfloat16"))
    scores, deviation = {}, dict[Key, Array]()
    for call, asked in enumerate(case.calls):
        for layer in range(preset.config.model.num_layers):
            key = (call, f"layers.{layer:02d}.router.probabilities")
            scores[key] = np.broadcast_to(np.arange(UNEQUAL.model.num_experts) / 10, (*asked.tokens.shape, 5)).copy()
            deviation[key] = np.full(scores[key].shape, 1e-9)
            if (call, layer) == at[:2]:
                deviation[key][at[2], at[3]] = 1.0
    undecided = undecided_choices(exhibit, scores, deviation)
    found = open_to_choice(exhibit, undecided, exhibit.evidence.observed)
    return {key: np.argwhere(x).tolist() for key, x in found.items()}


def test_a_choice_reaches_later_tokens_of_its_row_and_later_calls_through_the_caches() -> None:
    found = hanging((0, 0, 0, 1))
    num_tokens = golden_case(CASE)[1].calls[0].tokens.shape[1]
    assert found[0, "layers.00.moe.output"] == [[0, 1]]
    assert (0, "layers.00.kv.keys") not in found
    assert found[0, "layers.01.kv.keys"] == [[0, 1]]
    assert found[0, "logits"] == [[0, t] for t in range(1, num_tokens)]
    assert found[1, "logits"] == [[0, 0]]


def test_a_choice_in_the_last_layer_reaches_its_own_token_alone() -> None:
    found = hanging((0, 1, 0, 1))
    assert found[0, "logits"] == [[0, 1]]
    assert not [key for key in found if key[0] > 0]


def test_what_is_shown_passes_nothing_on() -> None:
    found = hanging((0, 0, 0, 1), ("layers.00.output", "logits"))
    assert found[0, "layers.00.output"] == [[0, 1]]
    assert (0, "logits") not in found
    assert (1, "logits") not in found
    assert not hanging((0, 0, 0, 1), ("layers.00.moe.expert_index", "logits"))


def test_tokens_are_stored_from_their_step_and_seen_from_their_slot() -> None:
    tokens, steps, lengths = np.array([[False, True, True]]), np.array([2]), np.array([2])
    slots = in_slots(tokens, steps, lengths, 6)
    assert slots.tolist() == [[False, False, False, True, False, False]]
    assert seen_by(slots, steps, 3).tolist() == [[False, True, True]]
    assert not seen_by(np.zeros((1, 6), bool), steps, 3).any()


def test_what_hangs_on_a_choice_is_left_out_by_token_or_slot() -> None:
    tokens = np.array([[True, False], [False, False]])
    assert decided(tokens, np.zeros((2, 2, 5)), ("b", "t", "d"))[..., 0].tolist() == [[False, True], [True, True]]
    assert decided(tokens, np.zeros((2, 3, 2)), ("b", "q", "t"))[:, 0].tolist() == [[False, True], [True, True]]
    assert decided(tokens, np.zeros((2, 2, 4, 4)), ("b", "s", "g", "h")).shape == (2, 2, 1, 1)
    assert decided(None, np.zeros((2, 2)), ("b", "t")).all()
