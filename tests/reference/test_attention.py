"""Laws of the cap, the mask and the softmax of attention, in float32 (SPEC §4.4)."""

from __future__ import annotations

from typing import Any

import haiku as hk
import hypothesis.extra.numpy as arrays
import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.reference import attention
from grok_conformance.reference.config import TransformerConfig
from grok_conformance.reference.taps import collect_taps

B, T, D = 2, 4, 6
CONFIG = TransformerConfig(
    emb_size=D, key_size=4, num_q_heads=4, num_kv_heads=2, num_layers=1, attn_output_multiplier=0.5
)
WIDTHS = {"query": (D, 16), "key": (D, 8), "value": (D, 8), "linear": (16, D)}
TAPS = ("attention.query", "attention.logits", "attention.weights", "attention.output")

INPUTS = arrays.arrays(np.float32, (B, T, D), elements=st.integers(-64, 64).map(lambda n: n / 32))
REAL = arrays.arrays(bool, (B, T))
"""Which tokens are real: any pattern of pads, whole rows of them included."""
GAINS = st.sampled_from([0.5, 4.0, 64.0])
"""Of the query: beyond about 8 the logits reach their cap."""


@jax.jit
def attend(params: Any, x: Any, mask: Any) -> Any:
    """Return the taps of attention without a cache."""
    layer = hk.transform(lambda: attention.MultiHeadAttention(CONFIG, name="attention")(x, mask, None))
    with collect_taps(TAPS) as collected:
        layer.apply(params, None)
    return collected


def weights(gain: float, seed: int = 0) -> Any:
    random = np.random.default_rng(seed)
    drawn = {name: random.standard_normal(shape).astype(np.float32) for name, shape in WIDTHS.items()}
    drawn["query"] *= np.float32(gain)
    return {f"attention/{name}": {"w": w} for name, w in drawn.items()}


def run(x: Any, real: Any, params: Any) -> dict[str, Any]:
    return {name.removeprefix("attention."): np.asarray(tap) for name, tap in attend(params, x, real).items()}


def visible(real: Any) -> Any:
    """Return which keys a query sees, [b, 1, 1, t, s]: real ones, up to its own."""
    return (np.tril(np.ones((T, T), bool)) & real[:, None, :])[:, None, None]


@given(INPUTS, REAL, GAINS)
def test_attention_logits_stay_within_the_cap(x: Any, real: Any, gain: float) -> None:
    assert (np.abs(run(x, real, weights(gain))["logits"]) <= attention.CAP).all()


@given(INPUTS, REAL, GAINS)
def test_the_opposite_query_has_the_opposite_logits(x: Any, real: Any, gain: float) -> None:
    logits, opposite = (run(x, real, weights(sign * gain))["logits"] for sign in (1, -1))
    assert np.array_equal(opposite, -logits)


@given(INPUTS, REAL, GAINS)
def test_weights_are_a_distribution_over_the_visible_keys(x: Any, real: Any, gain: float) -> None:
    found, sees = run(x, real, weights(gain))["weights"], visible(real)
    assert (found >= 0).all()
    assert np.allclose(found.sum(-1), 1, rtol=0, atol=1e-6)
    assert not np.where(sees.any(-1, keepdims=True) & ~sees, found, 0).any()


@given(INPUTS, REAL, GAINS)
def test_a_visible_key_with_a_larger_logit_has_no_smaller_weight(x: Any, real: Any, gain: float) -> None:
    taps, sees = run(x, real, weights(gain)), visible(real)
    logits, found = (np.where(sees, taps[name], np.nan) for name in ("logits", "weights"))
    order = np.argsort(logits, axis=-1)
    steps = np.diff(np.take_along_axis(found, order, axis=-1), axis=-1)
    assert (steps[~np.isnan(steps)] >= 0).all()


@given(INPUTS, REAL, GAINS)
def test_a_query_that_sees_no_key_averages_over_all_of_them(x: Any, real: Any, gain: float) -> None:
    found, blind = run(x, real, weights(gain))["weights"], ~visible(real).any(-1, keepdims=True)
    assert (np.where(blind, found, 1 / T) == 1 / T).all()


@given(INPUTS, REAL, st.integers(0, T - 1), INPUTS)
def test_a_later_token_changes_no_earlier_output(x: Any, real: Any, position: int, other: Any) -> None:
    changed = np.where((np.arange(T) > position)[:, None], other, x)
    before, after = (run(each, real, weights(1.0))["output"][:, : position + 1] for each in (x, changed))
    sees = visible(real)[:, 0, 0].any(-1)[:, : position + 1, None]  # a query that sees no key averages future ones too
    assert np.array_equal(np.where(sees, before, 0), np.where(sees, after, 0))
