"""Drawing the next token from the logits (SPEC §6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from grok_conformance.reference.model import LanguageModelOutput
from grok_conformance.reference.rounding import round_to

TOP_K = 8
"""How many of the most probable tokens a step reports."""

EXCLUDED = -1e10
"""The logit of a token that is not to be drawn."""


class SampleSettings(NamedTuple):
    """How each row is sampled (SPEC §6).

    temperature and nucleus_p float32 [b]; mask [b, v], 0 for the tokens that are not allowed; active bool [b], whether
    the row serves a request.
    """

    temperature: Any
    nucleus_p: Any
    mask: Any
    active: Any


class SampleOutput(NamedTuple):
    """What each row drew: token_id int32 [b, 1], and its probability prob [b, 1] in the dtype of the logits (SPEC §6).

    top_k_token_ids int32 and top_k_probs [b, 8] are the most probable tokens after filtering, ties to the lowest id.
    Ids of probability 0 mean nothing.
    """

    token_id: jax.Array
    prob: jax.Array
    top_k_token_ids: jax.Array
    top_k_probs: jax.Array


def sample_token(rngs: jax.Array, lm_outputs: LanguageModelOutput, settings: SampleSettings) -> SampleOutput:
    """Draw one token per row from the logits [b, 1, v], with one key per row, rngs [b, 2] (SPEC §6).

    In this order, all of it in the dtype of the logits: temperature, mask, nucleus filter, draw.
    Published behaviours (SPEC §9): at temperature 0 the most probable token is certain, the lowest id among ties
    (fixed: it gave NaN). Keys draw what jax_threefry_partitionable=True, the default of today's JAX, makes of them:
    the same tokens on every mesh, but not those of the published program, which ran with False.
    """
    logits = lm_outputs.logits
    per_row = (slice(None), None, None)
    greedy = settings.temperature[per_row] == 0  # [b, 1, 1]
    temperature = round_to(jnp.where(greedy, 1, settings.temperature[per_row]), logits.dtype)
    quotient = logits.astype(jnp.float32) / temperature.astype(jnp.float32)
    logits = jnp.where(settings.mask[:, None, :], round_to(quotient, logits.dtype), EXCLUDED)
    logits = top_p_filter(logits, round_to(settings.nucleus_p[per_row], logits.dtype))
    most_probable = jnp.arange(logits.shape[-1]) == jnp.argmax(logits, axis=-1, keepdims=True)  # [b, 1, v]
    logits = jnp.where(greedy & ~most_probable, EXCLUDED, logits)

    token_id = jax.vmap(jax.random.categorical)(rngs, logits)  # [b, 1]
    probs = jax.nn.softmax(logits, axis=-1)[:, 0]  # [b, v]
    top_k_probs, top_k_token_ids = jax.lax.top_k(probs, TOP_K)  # [b, 8]
    return SampleOutput(token_id, jnp.take_along_axis(probs, token_id, axis=-1), top_k_token_ids, top_k_probs)


def top_p_filter(logits: jax.Array, top_p: jax.Array) -> jax.Array:
    """Return the logits [..., v] with all but the nucleus of probability top_p [..., 1] at -1e10 (SPEC §6).

    In ascending order, the threshold is the first logit at which the cumulative probability reaches 1 - top_p; it and
    all that are not below it are kept.
    Published behaviour, fixed (SPEC §9): where rounding lets the sum never get there, which kept everything, the
    threshold is the largest logit.
    """
    ascending = jnp.sort(logits, axis=-1)
    reached = jnp.cumsum(jax.nn.softmax(ascending, axis=-1), axis=-1) >= 1 - top_p  # [..., v]
    reached = reached.at[..., -1].set(True)
    threshold = jnp.take_along_axis(ascending, jnp.argmax(reached, axis=-1, keepdims=True), axis=-1)  # [..., 1]
    return jnp.where(logits >= threshold, logits, EXCLUDED)
