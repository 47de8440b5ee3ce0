"""Recipes of probes: how weights are drawn that make a network transparent for one class of operations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from grok_conformance.harness.cases.synthesis import Statistics, synthesize
from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig, grok_1

CONSTANT_FEATURE = 0
"""The feature of the embedding that every token has alike."""

SIDE_FEATURE = 1
"""The feature that tells two halves of the tokens apart, where a recipe has one."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a probe's weights are drawn.

    `constant` is the size of the feature that all tokens have in common, against 1 of the others; `activation`,
    `router` and `attention` are what it adds to every expert activation, router logit, and attention logit before the
    cap, there in the rotary `pairs` (first, end) of every head; `rest` is what remains of other queries and keys.
    `attention_output` and `expert_output` are gains of the blocks' last matrices. A `silent` block gives zeros. `side`
    is the size of a feature that is positive for one half of the tokens and negative for the other, which tells
    attention nothing and reaches its values with the gain `side_value`.
    """

    seed: int
    query_gain: float = 1.0
    attention_output: float = 1.0
    expert_output: float = 1.0
    constant: float = 1.0
    activation: float = 0.0
    activation_gain: float = 1.0
    router: float = 0.0
    router_deviation: float = 4.0
    attention: float = 0.0
    pairs: tuple[int, int] = (24, 32)
    rest: float = 1.0
    side: float = 0.0
    side_value: float = 1.0
    attention_update: float = 1.0
    moe_update: float = 1.0
    tied_experts: tuple[int, ...] = ()
    silent: Literal["", "attention", "experts"] = ""


def draw(config: LanguageModelConfig, recipe: Recipe) -> dict[str, Array]:
    """Draw the weights of a recipe, by stored name (SPEC §2)."""
    weights = synthesize(
        config,
        Statistics(
            seed=recipe.seed,
            num_groups=4,
            query_gain=recipe.query_gain,
            router_deviation=recipe.router_deviation,
            attention_update=recipe.attention_update,
            moe_update=recipe.moe_update,
            tied_experts=recipe.tied_experts,
        ),
    )
    random = np.random.default_rng(recipe.seed)
    width = config.model.emb_size
    shared = recipe.constant / np.sqrt(1 + (recipe.constant**2 - 1) / width)  # the feature after a norm of gain 1
    weights[grok_1.EMBEDDINGS] = embeddings(random, config, recipe)
    for layer in range(config.model.num_layers):
        below = grok_1.LAYER.format(layer=layer)
        weights[below + grok_1.GAINS[2]][CONSTANT_FEATURE] = 1.0
        weights[below + grok_1.ROUTER][CONSTANT_FEATURE] += np.float32(recipe.router / shared)
        linear = random.standard_normal((config.model.num_experts, width, config.axis_sizes["f"]))
        linear *= recipe.activation_gain / np.sqrt(width)
        linear[:, CONSTANT_FEATURE] += recipe.activation / shared
        weights |= quantised(below + grok_1.EXPERT_ACTIVATION, linear)
        if recipe.attention:
            shift_attention(weights, below, config, recipe, recipe.attention / shared**2)
        if recipe.side:
            show_sides(weights, below, recipe.side_value, random)
        silence(weights, below, recipe.silent)
        scaled(weights, f"{below}{grok_1.ATTENTION_OUT}.scales", recipe.attention_output)
        scaled(weights, f"{below}{grok_1.EXPERT_OUT}.scales", recipe.expert_output)
    return weights


def shift_attention(
    weights: dict[str, Array], below: str, config: LanguageModelConfig, recipe: Recipe, shift: float
) -> None:
    """Let the constant feature, where it is 1, add a number to every attention logit, in the first halves of pairs."""
    model = config.model
    first, end = recipe.pairs
    size = np.sqrt(shift / (model.attn_output_multiplier * (end - first)))
    for name, num_heads in ((grok_1.QUERY, model.num_q_heads), (grok_1.KEY, model.num_kv_heads)):
        matrix = stored_matrix(weights, below + name).reshape(-1, num_heads, model.key_size) * recipe.rest
        matrix[CONSTANT_FEATURE, :, first:end] += size
        if recipe.side:
            matrix[SIDE_FEATURE] = 0.0
        weights |= quantised(below + name, matrix.reshape(len(matrix), -1))


def show_sides(weights: dict[str, Array], below: str, gain: float, random: np.random.Generator) -> None:
    """Let the values of attention tell the two sides of tokens apart, with a gain against what else they tell."""
    matrix = stored_matrix(weights, below + grok_1.VALUE)
    matrix[SIDE_FEATURE] = gain * matrix.std() * np.sign(random.standard_normal(matrix.shape[1]))
    weights |= quantised(below + grok_1.VALUE, matrix)


def embeddings(random: np.random.Generator, config: LanguageModelConfig, recipe: Recipe) -> Array:
    """Draw rows [v, d] of RMS 1 after the multiplier, orthonormal if v ≤ d, with the features in common."""
    v, d = config.vocab_size, config.model.emb_size
    square = random.standard_normal((max(v, d), d))
    rows = np.linalg.qr(square)[0] if v <= d else square / np.linalg.norm(square, axis=-1, keepdims=True)
    rows = rows[:v] * np.sqrt(d)
    rows[:, CONSTANT_FEATURE] = recipe.constant
    if recipe.side:
        rows[:, SIDE_FEATURE] = np.where(np.arange(v) < v // 2, recipe.side, -recipe.side)
    made: Array = (rows / config.embedding_multiplier_scale).astype(np.float32)
    return made


def silence(weights: dict[str, Array], below: str, block: str) -> None:
    """Make a block of a layer give zeros: values of zero, or experts whose last matrix is."""
    name = {"attention": grok_1.VALUE, "experts": grok_1.EXPERT_OUT}.get(block)
    if name is not None:
        stored = f"{below}{name}.weight"
        weights[stored] = np.zeros_like(weights[stored])


def scaled(weights: dict[str, Array], name: str, gain: float) -> None:
    """Multiply the scales of a matrix, which keep their dtype."""
    weights[name] = (weights[name].astype(np.float32) * np.float32(gain)).astype(weights[name].dtype)


def stored_matrix(weights: Mapping[str, Array], name: str) -> Array:
    """Return a matrix [k, n] that is stored with one scale per output channel, in float64."""
    matrix: Array = weights[f"{name}.weight"] * weights[f"{name}.scales"].astype(np.float64)
    return matrix


def quantised(name: str, matrix: Array) -> dict[str, Array]:
    """Return a matrix [.., k, n] as it is stored: int8 with one bf16 scale per output channel (SPEC §3)."""
    scales = (np.abs(matrix).max(-2, keepdims=True) / 127).astype(DTYPES["bfloat16"])
    weight = np.clip(np.rint(matrix / scales.astype(np.float64)), -127, 127).astype(np.int8)
    return {f"{name}.weight": weight, f"{name}.scales": scales}
