from __future__ import annotations

import numpy as np

from grok_conformance.harness.diagnosis.shown_tap import failing, noise_of, other_choice, shown_taps
from tests.harness.diagnosis.faulty_port import DECODE, PREFILL, exhibit_with, taps_with


def test_an_honest_port_has_taps_and_none_that_fails() -> None:
    taps = taps_with(DECODE, "attention.query", lambda x: x)
    assert [(one.tap, one.call) for one in taps if one.layer == 1] == [
        ("layers.01.attention.query", i) for i in range(3)
    ]
    assert failing(taps) == []


def test_what_fails_is_marked_element_by_element_and_pads_are_not_compared() -> None:
    (one, _) = taps_with(PREFILL, "attention.query", lambda x: x * np.where(np.arange(8) == 3, 2, 1))
    assert not one.compared[1, 4:].any()
    assert one.wrong[0, ..., 3].all()
    assert not one.wrong[..., :3].any()


def test_the_worst_taps_come_first() -> None:
    taps = taps_with(PREFILL, "moe.norm", lambda x: 2 * x, layers="1")
    assert [one.layer for one in failing(taps)] == [1]


def test_an_operation_can_be_applied_again_with_other_inputs() -> None:
    one = taps_with(PREFILL, "attention.residual", lambda x: x)[0]
    stream, update = one.inputs
    np.testing.assert_allclose(one.applied().value, one.exact)
    np.testing.assert_allclose(one.applied(inputs={update: 0 * one.values[update]}).value, one.values[stream])


def test_what_no_check_compares_is_at_hand_as_it_was_shown() -> None:
    one = taps_with(PREFILL, "attention.weights", lambda x: x)[0]
    future = ~np.broadcast_to(one.scope.visible[:, None, None], one.observed.shape)
    assert one.values["layers.00.attention.logits"][future].any()


def test_caches_of_the_call_before_are_at_hand() -> None:
    taps = shown_taps("kv.keys", [exhibit_with(DECODE, "kv.keys", lambda x: x)])
    before = {one.call: one for one in taps if one.layer == 0}
    np.testing.assert_array_equal(before[1].values["previous:layers.00.kv.keys"], before[0].observed)


def test_experts_whose_scores_are_equal_are_no_other_choice() -> None:
    scores = np.array([[0.5, 0.5, 0.25]])
    assert other_choice(np.array([[0, 1]]), np.array([[1, 0]]), scores).tolist() == [[False, False]]
    assert other_choice(np.array([[0, 1]]), np.array([[0, 2]]), scores).tolist() == [[False, True]]
    assert other_choice(np.array([[0, 1]]), np.array([[0, 9]]), scores).tolist() == [[False, True]]


def test_what_is_much_too_large_is_rounded_at_its_own_size() -> None:
    one = taps_with(PREFILL, "moe.norm", lambda x: x)[0]
    assert noise_of(one, np.zeros(1), np.array([2.0**30])) > 30
