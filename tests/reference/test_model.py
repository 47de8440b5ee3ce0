"""The decoder as a whole: which position is kept, and where the residual stream lies on a mesh."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from grok_conformance import reference
from grok_conformance.reference.model import residual_spec, take_position
from tests.reference.published import run
from tests.reference.slot_models import CONFIG, random_params

X = jnp.arange(2 * 4 * 3.0).reshape(2, 4, 3)


@pytest.mark.parametrize(("length", "kept"), [([1, 4], [0, 3]), ([2, 3], [1, 2]), ([0, 9], [0, 3])])
def test_the_last_of_so_many_positions_is_kept_within_the_call(length: list[int], kept: list[int]) -> None:
    found = take_position(X, jnp.array(length))
    np.testing.assert_array_equal(found, X[jnp.arange(2), jnp.array(kept)][:, None])


def test_the_residual_stream_is_sharded_only_where_the_configuration_says_so() -> None:
    assert residual_spec(CONFIG.model) == P("data", None, "model")
    assert residual_spec(replace(CONFIG.model, shard_activations=False)) == P("data", None, None)


def test_logits_of_one_position_are_those_of_all() -> None:
    params, tokens = random_params(CONFIG), np.array([[5, 6, 7], [8, 9, 10]], np.int32)
    whole = run(CONFIG, params, tokens).logits
    last = run(CONFIG, params, tokens, length=np.array([3, 2])).logits
    np.testing.assert_allclose(last[:, 0], whole[jnp.arange(2), jnp.array([2, 1])], rtol=1e-5, atol=1e-6)
    hidden = reference.apply(CONFIG, params, tokens, last_hid_only=True)
    assert np.asarray(hidden).shape == (2, CONFIG.model.emb_size)
