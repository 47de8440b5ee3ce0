"""The operations around the experts: products with stored matrices, norm, attention, router (SPEC §4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from grok_conformance.candidates.jax_grouped.parameters import Matrix, Params
from grok_conformance.harness.contract import TransformerConfig

NORM_EPSILON = 1e-5
ROPE_BASE = 10_000.0
LOGIT_CAP = 30.0
MASKED_LOGIT = -1e30

ROWS_AT_ONCE = 32
"""Rows of a matrix that are added in one pass where x has one row: of fewer the sums are read and written too often."""


class KVCache(NamedTuple):
    """One layer's cache: keys after RoPE and values [b, s, g, h] in the compute dtype (SPEC §5)."""

    keys: jax.Array
    values: jax.Array


class Call(NamedTuple):
    """What every layer knows of a call: which tokens are real bool [b, t], and each row's step int32 [b]."""

    real: jax.Array
    steps: jax.Array

    @property
    def positions(self) -> jax.Array:
        """The positions [b, t] of the call's tokens in the cache."""
        return self.steps[:, None] + jnp.arange(self.real.shape[1])


def contract(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    """Return the einsum of x and y, summed in float32 and not rounded further."""
    precision = jax.lax.Precision.HIGHEST
    product: jax.Array = jnp.einsum(equation, x, y, precision=precision, preferred_element_type=jnp.float32)
    return product


def multiply(x: jax.Array, matrix: Matrix) -> jax.Array:
    """Multiply x [.., k] by a stored matrix [k, n]: float32 [.., n] (SPEC §3).

    int8 is exact in the dtype of x, so each group of rows is summed first and then multiplied by its scales. Plain
    floats are used as they are stored.
    """
    weight, scales = matrix
    if x.size == x.shape[-1]:
        return multiply_row(x.reshape(-1), matrix).reshape(*x.shape[:-1], -1)
    if scales is None:
        return contract("...k,kn->...n", x.astype(jnp.float32), weight)
    num_groups, num_columns = scales.shape
    parts = jnp.moveaxis(x.reshape(*x.shape[:-1], num_groups, -1), -2, 0)  # [G, .., k/G]
    groups = (parts, weight.reshape(num_groups, -1, num_columns), scales)

    def add_group(total: jax.Array, group: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        part, rows, scale = group
        return total + contract("...k,kn->...n", part, rows.astype(x.dtype)) * scale.astype(jnp.float32), None

    total: jax.Array = jax.lax.scan(add_group, jnp.zeros((*x.shape[:-1], num_columns)), groups)[0]
    return total


def multiply_row(x: jax.Array, matrix: Matrix, *expert: jax.Array) -> jax.Array:
    """Multiply one row x [k] by a stored matrix [k, n], or one expert's of [e, k, n]: float32 [n] (SPEC §3).

    Some rows of the matrix at a time are widened and added in one pass over all columns: one row of x is bound by
    reading weights, and a product of matrices would write them wide first.
    """
    weight, scales = matrix
    num_columns, num_groups = weight.shape[-1], 1 if scales is None else scales.shape[-2]
    height = len(x) // num_groups
    at_once = min(height, ROWS_AT_ONCE)
    wide = x.astype(jnp.float32)

    def take(stored: jax.Array, row: jax.Array, num_rows: int) -> jax.Array:
        taken = jax.lax.dynamic_slice(stored, (*expert, row, 0), (*(1 for _ in expert), num_rows, num_columns))
        return taken.reshape(num_rows, num_columns)

    def sum_rows(row: jax.Array, num_rows: int) -> jax.Array:
        factors, rows = jax.lax.dynamic_slice(wide, (row,), (num_rows,)), take(weight, row, num_rows)
        return sum_in_pairs([factors[i] * rows[i].astype(jnp.float32) for i in range(num_rows)])

    def add_group(group: jax.Array, total: jax.Array) -> jax.Array:
        first, left = group * height, height % at_once
        own: jax.Array = jax.lax.fori_loop(
            0,
            height // at_once,
            lambda i, own: own + sum_rows(first + i * at_once, at_once),
            sum_rows(first + height - left, left) if left else jnp.zeros(num_columns),
        )
        return total + (own if scales is None else own * take(scales, group, 1)[0].astype(jnp.float32))

    product: jax.Array = jax.lax.fori_loop(0, num_groups, add_group, jnp.zeros(num_columns))
    return product


def sum_in_pairs(terms: Sequence[jax.Array]) -> jax.Array:
    """Return the sum of some terms, by halves."""
    half = len(terms) // 2
    return sum_in_pairs(terms[:half]) + sum_in_pairs(terms[half:]) if half else terms[0]


def rms_norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Return x · rsqrt(mean(x²) + 1e-5) · scale over the last axis, float32 inside, in the dtype of x (SPEC §4)."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean + NORM_EPSILON) * scale).astype(x.dtype)


def add(x: jax.Array, y: jax.Array) -> jax.Array:
    """Return x + y in their dtype, rounded once (SPEC §4.5, §4.7)."""
    return (x.astype(jnp.float32) + y.astype(jnp.float32)).astype(x.dtype)


def scaled(x: jax.Array, multiplier: float) -> jax.Array:
    """Return x times a multiplier that is rounded to the dtype of x first: 78.5 in bf16 (SPEC §4.2, §4.8)."""
    constant = jnp.asarray(multiplier, x.dtype).astype(jnp.float32)
    return (x.astype(jnp.float32) * constant).astype(x.dtype)


def rotate(x: jax.Array, positions: jax.Array) -> jax.Array:
    """Rotate the halves of heads [b, t, n, h] by the phases of positions [b, t], in float32 (SPEC §4.4)."""
    half = x.shape[-1] // 2
    frequencies = ROPE_BASE ** (-jnp.arange(half, dtype=jnp.float32) / half)  # [h/2]
    phase = (positions[..., None].astype(jnp.float32) * frequencies)[:, :, None]  # [b, t, 1, h/2]
    cos, sin = jnp.cos(phase), jnp.sin(phase)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def write(cache: jax.Array, new: jax.Array, steps: jax.Array) -> jax.Array:
    """Return the cache [b, s, ..] with new [b, t, ..] written at each row's step (SPEC §5)."""
    update = jax.vmap(jax.lax.dynamic_update_slice_in_dim, in_axes=(0, 0, 0, None))
    written: jax.Array = update(cache, new.astype(cache.dtype), steps, 0)
    return written


def attention(
    config: TransformerConfig, params: Params, x: jax.Array, call: Call, cache: KVCache
) -> tuple[dict[str, jax.Array], KVCache]:
    """Return every value of the attention of x [b, t, d] by tap name, `attention.output` last, and the new cache."""
    module = "multi_head_attention"

    def heads(name: str) -> jax.Array:
        product = multiply(x, params[f"{module}/{name}/w"]).astype(x.dtype)
        return product.reshape(*x.shape[:2], -1, config.key_size)

    query, key, value = heads("query"), heads("key"), heads("value")  # [b, t, q or g, h]
    query_rotated, key_rotated = rotate(query, call.positions), rotate(key, call.positions)
    cache = KVCache(write(cache.keys, key_rotated, call.steps), write(cache.values, value, call.steps))
    logits = attention_logits(config, query_rotated, cache.keys)  # [b, g, r, t, s]
    weights = attention_weights(logits, call).astype(x.dtype)  # [b, g, r, t, s]
    averaged = contract("bgrts,bsgh->btgrh", weights, cache.values).astype(x.dtype).reshape(query.shape)
    flat = averaged.reshape(*x.shape[:2], -1)  # [b, t, q·h]
    values = {
        "attention.query": query,
        "attention.key": key,
        "attention.value": value,
        "attention.query_rotated": query_rotated,
        "attention.key_rotated": key_rotated,
        "kv.keys": cache.keys,
        "kv.values": cache.values,
        "attention.logits": logits,
        "attention.weights": weights,
        "attention.heads": averaged,
        "attention.output": multiply(flat, params[f"{module}/linear/w"]).astype(x.dtype),
    }
    return values, cache


def attention_logits(config: TransformerConfig, query: jax.Array, keys: jax.Array) -> jax.Array:
    """Return the scaled and capped products of query [b, t, q, h] and keys [b, s, g, h]: float32 [b, g, r, t, s].

    Query head j uses KV head j // r; the products are rounded to the compute dtype first (SPEC §4.4).
    """
    grouped = query.reshape(*query.shape[:2], config.num_kv_heads, -1, config.key_size)  # [b, t, g, r, h]
    products = contract("btgrh,bsgh->bgrts", grouped, keys).astype(query.dtype).astype(jnp.float32)
    return LOGIT_CAP * jnp.tanh(products * config.attn_output_multiplier / LOGIT_CAP)


def attention_weights(logits: jax.Array, call: Call) -> jax.Array:
    """Return the softmax of logits [b, g, r, t, s] over the keys that each query sees, float32 (SPEC §4.4).

    Keys of this call are seen unless they are pads, keys of earlier calls always. A query that sees none averages: over
    the slots written so far, or over the whole cache where the call brings one token, which also masks its whole row.
    """
    num_tokens, num_slots = logits.shape[-2:]
    slots = jnp.arange(num_slots)
    visible = slots <= call.positions[..., None]  # [b, t, s]
    if num_tokens == 1:
        visible &= call.real[..., None]
        present = jnp.ones_like(visible[:, :1])  # [b, 1, s]
    else:
        real = write(jnp.ones((len(call.real), num_slots), bool), call.real, call.steps)  # [b, s]
        visible &= real[:, None]
        present = (slots < (call.steps + num_tokens)[:, None])[:, None]  # [b, 1, s]
    masked = jnp.where(visible[:, None, None], logits, MASKED_LOGIT)
    return jax.nn.softmax(jnp.where(present[:, None, None], masked, -jnp.inf), axis=-1)


def route(params: Params, x: jax.Array, num_selected_experts: int) -> dict[str, jax.Array]:
    """Return the router's values for x [b, t, d] by tap name, float32; ties go to the lowest expert (SPEC §4.6)."""
    logits = contract("btd,de->bte", x.astype(jnp.float32), params["router/w"].weight)
    probabilities = jax.nn.softmax(logits, axis=-1)
    gate, index = jax.lax.top_k(probabilities, num_selected_experts)
    return {
        "router.logits": logits,
        "router.probabilities": probabilities,
        "moe.expert_index": index,
        "moe.expert_gate": gate,
    }


def dense_block(params: Params, x: jax.Array) -> dict[str, jax.Array]:
    """Return the values of a dense block of x [b, t, d], all in its dtype, gelu too (SPEC §4.6)."""
    activation, up = (multiply(x, params[f"{name}/w"]).astype(x.dtype) for name in ("linear", "linear_v"))
    gate = jax.nn.gelu(activation.astype(jnp.float32), approximate=True).astype(x.dtype)
    hidden = (gate.astype(jnp.float32) * up.astype(jnp.float32)).astype(x.dtype)
    output = multiply(hidden, params["linear_1/w"]).astype(x.dtype)
    return {"dense.activation": activation, "dense.up": up, "dense.hidden": hidden, "moe.output": output}
