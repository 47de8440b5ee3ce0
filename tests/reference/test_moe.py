"""Laws of the router and of the experts, in float32 (SPEC §4.6).

Small integers make every sum exact in whatever order it is taken, so that most laws hold bit for bit.
"""

from __future__ import annotations

from typing import Any

import haiku as hk
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference import moe, router
from grok_conformance.reference.config import TransformerConfig

B, T, D, E, K = 2, 3, 6, 5, 3
CONFIG = TransformerConfig(
    emb_size=D, key_size=2, num_q_heads=1, num_kv_heads=1, num_layers=1, widening_factor=2,
    num_experts=E, num_selected_experts=K,
)  # fmt: skip
F = CONFIG.ffn_size

TOKENS = arrays.arrays(np.float32, (B, T, D), elements=st.integers(-2, 2))
ROUTERS = arrays.arrays(np.float32, (D, E), elements=st.integers(-3, 3))
ORDERS = st.permutations(range(E))


@jax.jit
def route(w: Any, x: Any) -> Any:
    """Return probabilities [b, t, e], gates and experts [b, t, c]."""

    def run() -> Any:
        probabilities, _, _ = router.Router(K).compute_routing_prob(x, None, E)
        return probabilities, *router.choose_experts(probabilities, K)

    return hk.transform(run).apply({"router": {"w": w}}, None)


@jax.jit
def mix(params: Any, x: Any) -> Any:
    """Return the output of the experts [b, t, d]."""

    def run() -> Any:
        return moe.MoELayer(E, lambda x: moe.DenseBlock(CONFIG)(x), router.Router(K))(x)  # noqa: PLW0108 - in its scope

    return hk.transform(run).apply(params, None)


def routed(w: Any, x: Any) -> tuple[Any, Any, Any]:
    probabilities, gates, experts = (np.asarray(value) for value in route(w, x))
    return probabilities, gates, experts


def expert_params(w: Any, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    shapes = {"linear": (E, D, F), "linear_v": (E, D, F), "linear_1": (E, F, D)}
    matrices = {f"moe/{name}": {"w": random.standard_normal(s).astype(np.float32)} for name, s in shapes.items()}
    return {"router": {"w": w}, **matrices}


def scores(w: Any, x: Any) -> Any:
    """Return the router logits, exact."""
    return x.astype(np.float64) @ w.astype(np.float64)


@given(TOKENS, ROUTERS)
def test_probabilities_are_a_distribution_over_all_experts(x: Any, w: Any) -> None:
    probabilities, _, _ = routed(w, x)
    assert (probabilities > 0).all()
    assert np.allclose(probabilities.sum(-1), 1, rtol=0, atol=1e-6)


@given(TOKENS, ROUTERS)
def test_ratios_of_probabilities_are_those_of_the_exponentials_of_the_logits(x: Any, w: Any) -> None:
    probabilities, logits = routed(w, x)[0].astype(np.float64), scores(w, x)
    differences = logits - logits.max(-1, keepdims=True)
    assert np.allclose(np.log(probabilities) - np.log(probabilities.max(-1, keepdims=True)), differences, atol=1e-4)


@given(TOKENS, ROUTERS)
def test_gates_are_the_largest_probabilities_in_descending_order(x: Any, w: Any) -> None:
    probabilities, gates, experts = routed(w, x)
    assert np.array_equal(gates, -np.sort(-probabilities, axis=-1)[..., :K])
    assert np.array_equal(gates, np.take_along_axis(probabilities, experts, axis=-1))


@given(TOKENS, ROUTERS)
def test_ties_go_to_the_lowest_expert(x: Any, w: Any) -> None:
    w[:, 2] = w[:, 4] = w[:, 1]
    _, _, experts = routed(w, x)
    assert np.array_equal(experts, np.argsort(-scores(w, x), axis=-1, kind="stable")[..., :K])


@given(TOKENS, ROUTERS, ORDERS)
def test_experts_are_chosen_by_what_they_are_not_by_where_they_stand(x: Any, w: Any, order: list[int]) -> None:
    w = w + np.arange(E, dtype=np.float32) / 64  # no two experts are equal
    x[..., 0] = 1
    (_, _, experts), (_, _, permuted) = routed(w, x), routed(w[:, order], x)
    decided = np.diff(np.sort(scores(w, x), axis=-1)).min(-1) > 0
    assert np.array_equal(np.array(order)[permuted][decided], experts[decided])


@given(TOKENS, ROUTERS, ORDERS)
def test_the_mixture_does_not_see_the_order_of_the_experts(x: Any, w: Any, order: list[int]) -> None:
    params = expert_params(w)
    permuted = {path: {"w": leaf["w"][order]} for path, leaf in params.items() if path != "router"}
    before, after = np.asarray(mix(params, x)), np.asarray(mix({"router": {"w": w[:, order]}, **permuted}, x))
    decided = np.diff(np.sort(scores(w, x), axis=-1)).min(-1) > 0
    assert np.allclose(before[decided], after[decided], rtol=1e-5, atol=1e-4)


@given(TOKENS, ROUTERS, st.permutations(range(B * T)))
def test_tokens_are_mixed_each_on_its_own(x: Any, w: Any, order: list[int]) -> None:
    params = expert_params(w)
    shuffled = x.reshape(B * T, D)[order].reshape(x.shape)
    before, after = (np.asarray(mix(params, each)).reshape(B * T, D) for each in (x, shuffled))
    assert np.allclose(before[order], after, rtol=1e-5, atol=1e-4)
