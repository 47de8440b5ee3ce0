from __future__ import annotations

from typing import Any

import haiku as hk
import jax.numpy as jnp
import numpy as np

from grok_conformance.reference.router import Router, choose_experts

W = np.array([[1.0, 0.0, -1.0, 1.0], [0.0, 2.0, 0.5, 0.0]], np.float32)  # [d, e]
X = np.array([[[1.0, 0.0], [0.0, 1.0]]], np.float32)  # [b, t, d]


def routed(padding_mask: Any = None) -> tuple[Any, Any, int]:
    def run() -> Any:
        return Router(2).compute_routing_prob(jnp.asarray(X), padding_mask, W.shape[1])

    probabilities, logits, auxiliary = hk.transform(run).apply({"router": {"w": W}}, None)
    return np.asarray(probabilities), np.asarray(logits), auxiliary


def test_logits_are_the_product_and_probabilities_their_softmax_over_all_experts() -> None:
    probabilities, logits, auxiliary = routed()
    np.testing.assert_allclose(logits, X @ W, rtol=1e-6)
    exponentials = np.exp(X @ W)
    np.testing.assert_allclose(probabilities, exponentials / exponentials.sum(-1, keepdims=True), rtol=1e-6)
    assert auxiliary == 0


def test_a_mask_that_is_given_silences_its_pads_and_leaves_the_logits() -> None:
    masked, logits, _ = routed(jnp.array([[1, 0]]))
    probabilities, plain, _ = routed()
    np.testing.assert_array_equal(masked[:, 0], probabilities[:, 0])
    assert not masked[:, 1].any()
    np.testing.assert_array_equal(logits, plain)


def test_the_most_probable_experts_come_first_ties_to_the_lowest_and_gates_as_they_are() -> None:
    probabilities, _, _ = routed()
    gates, experts = choose_experts(jnp.asarray(probabilities), 2)
    assert np.asarray(experts).tolist() == [[[0, 3], [1, 2]]]
    np.testing.assert_array_equal(np.asarray(gates)[0, 0], probabilities[0, 0, [0, 3]])
    assert not np.isclose(np.asarray(gates).sum(-1), 1).any()
