from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from grok_conformance.reference.model import LanguageModelOutput
from grok_conformance.reference.sampling import (
    EXCLUDED,
    TOP_K,
    SampleOutput,
    SampleSettings,
    sample_token,
    top_p_filter,
)

ROWS, V = 64, 32
SLACK = 4 * V * 2**-24
"""Float32 sums of V probabilities are off by less: by that much the nucleus may be of another probability."""

jitted_filter = jax.jit(top_p_filter)
jitted_sample = jax.jit(sample_token)

quarters = st.lists(st.integers(-60, 60), min_size=V, max_size=V).map(lambda ints: np.array(ints, np.float32) / 4)
probabilities = st.floats(0, 1, width=32)


def softmax(logits: np.ndarray) -> np.ndarray:
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return np.asarray(weights / weights.sum())


def exactly_kept(logits: np.ndarray, top_p: float) -> np.ndarray:
    """The filter as SPEC §6 states it, in float64."""
    ascending = np.sort(logits)
    reached = np.cumsum(softmax(ascending)) >= 1 - top_p
    threshold = ascending[np.argmax(reached)] if reached.any() else ascending[-1]
    return np.asarray(logits >= threshold)


def kept(logits: np.ndarray, top_p: float) -> np.ndarray:
    filtered = np.asarray(jitted_filter(logits, np.array([top_p], logits.dtype)))
    is_kept: np.ndarray = filtered != np.array(EXCLUDED, logits.dtype)
    np.testing.assert_array_equal(filtered[is_kept], logits[is_kept])
    return is_kept


def sampled(
    logits: Any, *, seed: int = 0, temperature: Any = 1.0, nucleus_p: float = 1.0, mask: Any = True
) -> SampleOutput:
    """Sample rows [b, v] among ROWS, so that one program serves all tests of a dtype."""
    rows = np.resize(np.asarray(logits), (ROWS, V))
    row_settings = SampleSettings(
        temperature=np.resize(np.float32(temperature), ROWS),
        nucleus_p=np.full(ROWS, nucleus_p, np.float32),
        mask=np.resize(np.asarray(mask, bool), (ROWS, V)),
        active=np.ones(ROWS, bool),
    )
    rngs = jax.random.split(jax.random.PRNGKey(seed), ROWS)
    output = jitted_sample(rngs, LanguageModelOutput(jnp.asarray(rows[:, None]), None), row_settings)
    found: SampleOutput = jax.tree.map(lambda x: np.asarray(x)[: len(logits)], output)
    return found


@given(quarters, probabilities)
def test_top_p_filter_keeps_the_most_probable_token(logits: np.ndarray, top_p: float) -> None:
    assert kept(logits, top_p)[np.argmax(logits)]


@given(quarters, probabilities)
def test_top_p_filter_keeps_at_least_the_mass_it_is_asked_for(logits: np.ndarray, top_p: float) -> None:
    assert softmax(logits)[kept(logits, top_p)].sum() >= top_p - SLACK


@given(quarters, probabilities)
def test_top_p_filter_keeps_no_more_than_the_threshold_and_its_ties_need(logits: np.ndarray, top_p: float) -> None:
    is_kept = kept(logits, top_p)
    above_threshold = is_kept & (logits > logits[is_kept].min())
    assert softmax(logits)[above_threshold].sum() <= top_p + SLACK


@given(quarters, probabilities)
def test_top_p_filter_keeps_all_ties_with_the_threshold(logits: np.ndarray, top_p: float) -> None:
    is_kept = kept(logits, top_p)
    assert not np.isin(logits[~is_kept], logits[is_kept]).any()


@given(quarters, probabilities, probabilities)
def test_top_p_filter_keeps_more_for_a_larger_top_p(logits: np.ndarray, one: float, other: float) -> None:
    fewer, more = kept(logits, min(one, other)), kept(logits, max(one, other))
    assert (fewer <= more).all()


@given(quarters, probabilities)
def test_top_p_filter_agrees_with_float64_up_to_the_rounding_of_the_sum(logits: np.ndarray, top_p: float) -> None:
    is_kept = kept(logits, top_p)
    assert (exactly_kept(logits, top_p - SLACK) <= is_kept).all()
    assert (is_kept <= exactly_kept(logits, top_p + SLACK)).all()


@settings(max_examples=30)
@given(quarters)
def test_top_p_filter_keeps_everything_at_1(logits: np.ndarray) -> None:
    assert kept(logits, 1.0).all()


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
@pytest.mark.parametrize(("top_p", "num_kept"), [(0.0, 1), (0.25, 1), (0.6, 2), (0.8, 3), (0.95, 5)])
def test_top_p_filter_counts_halves_quarters_eighths(dtype: Any, top_p: float, num_kept: int) -> None:
    logits = (np.log(2) * -np.arange(1.0, 13)).astype(dtype)  # probabilities 1/2, 1/4, …
    np.testing.assert_array_equal(kept(logits, top_p), np.arange(12) < num_kept)


def test_top_p_0_keeps_one_token_where_rounding_leaves_the_sum_below_1() -> None:
    candidates = (np.random.default_rng(seed).standard_normal(5000).astype(np.float32) for seed in range(20))
    short = next(x for x in candidates if jnp.cumsum(jax.nn.softmax(jnp.sort(x)))[-1] < 1)
    np.testing.assert_array_equal(np.flatnonzero(kept(short, 0.0)), [np.argmax(short)])


def test_sample_token_divides_masks_and_filters_in_this_order() -> None:
    temperature, top_p = 1.7, 0.6
    generator = np.random.default_rng(1)
    logits = (2 * generator.standard_normal((ROWS, V))).astype(np.float32)
    mask = generator.random((ROWS, V)) < 0.7
    found = sampled(logits, temperature=temperature, nucleus_p=top_p, mask=mask)
    orders = {"stated": 0, "filter first": 0, "mask last": 0}
    for row in range(ROWS):
        quotient = logits[row] / temperature
        masked = np.where(mask[row], quotient, EXCLUDED)
        survivors = {
            "stated": exactly_kept(masked, top_p),
            "filter first": mask[row] & exactly_kept(logits[row], top_p),
            "mask last": mask[row] & exactly_kept(quotient, top_p),
        }
        for order, survive in survivors.items():
            probs = softmax(np.where(survive, quotient, EXCLUDED))
            expected = np.sort(probs)[::-1][:TOP_K]
            orders[order] += np.allclose(found.top_k_probs[row], expected, rtol=1e-5, atol=1e-7)
            if order == "stated":
                np.testing.assert_allclose(found.prob[row], probs[found.token_id[row]], rtol=1e-5)
    assert orders["stated"] == ROWS
    assert max(orders["filter first"], orders["mask last"]) < ROWS / 2


def test_sample_token_draws_each_row_with_its_own_key_and_partitionable_gumbel_noise_of_shape_1_v() -> None:
    logits = np.random.default_rng(2).standard_normal((ROWS, V)).astype(np.float32)
    keys = jax.random.split(jax.random.PRNGKey(7), ROWS)

    def drawn(*, partitionable: bool) -> np.ndarray:
        with jax.threefry_partitionable(partitionable):
            noise = np.stack([jax.random.gumbel(key, (1, V))[0] for key in keys])
        return np.asarray(np.argmax(logits + noise, axis=-1))

    token_ids = sampled(logits, seed=7).token_id[:, 0]
    np.testing.assert_array_equal(token_ids, drawn(partitionable=True))
    assert (token_ids != drawn(partitionable=False)).any()


def test_sample_token_draws_with_the_filtered_probabilities() -> None:
    logits = np.linspace(1, -4, V, dtype=np.float32)
    expected = softmax(np.where(exactly_kept(logits, 0.9), logits, EXCLUDED))
    draws = [sampled(np.tile(logits, (ROWS, 1)), seed=seed, nucleus_p=0.9).token_id for seed in range(128)]
    frequency = np.bincount(np.ravel(draws), minlength=V) / np.size(draws)
    standard_error = np.sqrt(expected * (1 - expected) / np.size(draws))
    assert (np.abs(frequency - expected) <= 5 * standard_error).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_temperature_0_takes_the_most_probable_token_for_certain_and_the_lowest_id_of_ties(dtype: Any) -> None:
    logits = jnp.zeros((16, V), dtype).at[:, 5:8].set(3).at[:, 6].set(4).at[8:, 3].set(4)
    found = sampled(logits)
    greedy = sampled(logits, temperature=0.0)
    np.testing.assert_array_equal(greedy.token_id[:, 0], [6] * 8 + [3] * 8)
    np.testing.assert_array_equal(greedy.prob.astype(np.float32), np.ones((16, 1)))
    assert (found.token_id != greedy.token_id).any()


def test_temperature_0_respects_the_mask_and_leaves_other_rows_alone() -> None:
    logits = np.random.default_rng(3).standard_normal((2, V)).astype(np.float32)
    mask = np.arange(V) != np.argmax(logits[0])
    found = sampled(logits, temperature=[0.0, 1.0], mask=np.stack([mask, np.ones(V, bool)]))
    assert found.token_id[0, 0] == np.argsort(logits[0])[-2]
    np.testing.assert_array_equal(found.prob[1], sampled(logits).prob[1])


def test_a_small_temperature_approaches_the_greedy_token() -> None:
    logits = np.random.default_rng(4).standard_normal((64, V)).astype(np.float32)
    np.testing.assert_array_equal(sampled(logits, temperature=1e-6).token_id[:, 0], np.argmax(logits, axis=-1))


def test_disallowed_tokens_are_never_drawn_and_have_no_probability() -> None:
    mask = np.arange(V) % 3 == 1
    found = sampled(np.zeros((ROWS, V), np.float32), mask=mask.astype(np.int32))
    assert set(found.token_id[:, 0] % 3) == {1}
    np.testing.assert_allclose(found.prob, 1 / mask.sum(), rtol=1e-6)


def test_the_top_8_are_taken_after_filtering_with_ties_to_the_lowest_id() -> None:
    logits = np.zeros((1, V), np.float32)
    logits[0, [20, 9, 14]] = 3.0, 2.0, 2.0
    found = sampled(logits, nucleus_p=0.5)
    np.testing.assert_array_equal(found.top_k_token_ids[0, :3], [20, 9, 14])
    e = np.exp(1)
    np.testing.assert_allclose(found.top_k_probs[0], [e / (e + 2), 1 / (e + 2), 1 / (e + 2)] + [0] * 5, rtol=1e-6)


def test_in_bfloat16_the_quotient_is_rounded_and_the_probabilities_are_returned_in_it() -> None:
    logits = jnp.full((1, V), -3, jnp.bfloat16).at[0, 4].set(255 / 128).at[0, 11].set(254 / 128)
    found = sampled(logits, temperature=1.9, nucleus_p=0.0)  # both quotients round to 134/128: a tie, so both are kept
    np.testing.assert_array_equal(found.top_k_token_ids[0, :2], [4, 11])
    np.testing.assert_array_equal(found.top_k_probs[0].astype(np.float32), [0.5, 0.5] + [0] * 6)
    assert {found.prob.dtype, found.top_k_probs.dtype} == {np.dtype(ml_dtypes.bfloat16)}


def test_shapes_and_dtypes_are_those_of_the_specification() -> None:
    found = sampled(np.zeros((3, V), np.float32))
    assert [(x.shape, str(x.dtype)) for x in found] == [
        ((3, 1), "int32"),
        ((3, 1), "float32"),
        ((3, TOP_K), "int32"),
        ((3, TOP_K), "float32"),
    ]
