"""Seeded synthetic weights in the stored form, with the statistics that a preset asks for (SPEC §2, §8)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import DTYPES, Array, LanguageModelConfig, ffn_size, grok_1

INT8_DEVIATION = 127 / 3.5
"""Standard deviation of the int8 values: a group's largest weight is about 3.5 deviations out."""


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """How a preset's weights are drawn and stored.

    `num_groups` is G, the scale groups of the row-parallel weights; `scales_dtype` None stores plain float32 matrices.
    Gains multiply the usual deviation 1/√fan_in; `router_deviation` is that of the router logits. The two update gains
    are the sizes of a block's update after its post-norm, against a residual stream of size 1 (SPEC §8). `scales_gain`
    multiplies the scales of all quantised matrices, whose int8 values go down to `least_int8`.
    """

    seed: int
    num_groups: int = 1
    scales_dtype: str | None = "bfloat16"
    query_gain: float = 1.0
    activation_gain: float = 1.0
    router_deviation: float = 1.0
    attention_update: float = 0.88
    moe_update: float = 0.64
    embedding_rms: float = 0.01274
    tied_experts: tuple[int, ...] = ()
    router_shift: float = 0.0
    scales_gain: float = 1.0
    least_int8: int = -127


def synthesize(config: LanguageModelConfig, statistics: Statistics) -> dict[str, Array]:
    """Draw all the weights of a configuration, by stored name (SPEC §2)."""
    random = np.random.default_rng(statistics.seed)
    sizes = config.axis_sizes
    d, v = sizes["d"], sizes["v"]
    weights = {
        grok_1.EMBEDDINGS: normal(random, (v, d), statistics.embedding_rms),
        grok_1.LAST_GAIN: gain(random, d, 1.0),
    }
    for layer in range(config.model.num_layers):
        prefix = grok_1.LAYER.format(layer=layer)
        weights |= {prefix + name: x for name, x in decoder_layer(random, config, statistics).items()}
    return weights


def decoder_layer(random: np.random.Generator, config: LanguageModelConfig, statistics: Statistics) -> dict[str, Array]:
    """Draw the weights of one layer, by stored name below the layer's module (SPEC §2)."""
    sizes, groups = config.axis_sizes, statistics.num_groups
    d, q, g, h, e = (sizes[axis] for axis in "dqghe")
    f = ffn_size(d, config.model.widening_factor)
    experts = () if config.dense else (e,)
    activation, up, out = grok_1.DENSE if config.dense else grok_1.EXPERTS
    matrices = {
        grok_1.QUERY: ((d, q * h), 1, statistics.query_gain),
        grok_1.KEY: ((d, g * h), 1, 1.0),
        grok_1.VALUE: ((d, g * h), 1, 1.0),
        grok_1.ATTENTION_OUT: ((q * h, d), groups, 1.0),
        activation: ((*experts, d, f), 1, statistics.activation_gain),
        up: ((*experts, d, f), 1, 1.0),
        out: ((*experts, f, d), groups, 1.0),
    }
    weights: dict[str, Array] = {}
    for name, (shape, num_groups, factor) in matrices.items():
        deviation = factor * statistics.scales_gain / np.sqrt(shape[-2])
        weights |= stored(random, name, shape, num_groups, deviation, statistics)
    updates = (1.0, statistics.attention_update, 1.0, statistics.moe_update)
    for name, size in zip(grok_1.GAINS, updates, strict=True):
        weights[name] = gain(random, d, size)
    if not config.dense:
        weights[grok_1.ROUTER] = router(random, d, e, statistics)
    return weights


def normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    """Draw normal float32 values."""
    return (random.standard_normal(shape) * deviation).astype(np.float32)


def gain(random: np.random.Generator, size: int, mean: float) -> Array:
    """Draw a norm's gains around a mean, unequal so that a dropped or exchanged gain shows."""
    return (mean * (1 + 0.2 * random.standard_normal(size))).astype(np.float32)


def router(random: np.random.Generator, d: int, e: int, statistics: Statistics) -> Array:
    """Draw router weights [d, e]; tied experts share one column, `router_shift` moves the mean of every column."""
    w = normal(random, (d, e), statistics.router_deviation / np.sqrt(d))
    if statistics.tied_experts:
        w[:, list(statistics.tied_experts)] = w[:, [statistics.tied_experts[0]]]
    return w + np.float32(statistics.router_shift)


def stored(
    random: np.random.Generator,
    name: str,
    shape: tuple[int, ...],
    num_groups: int,
    deviation: float,
    statistics: Statistics,
) -> dict[str, Array]:
    """Draw a matrix as it is stored: float32, or int8 with scales [..., G, n] that differ by group and channel."""
    if statistics.scales_dtype is None:
        return {name: normal(random, shape, deviation)}
    drawn = np.rint(random.standard_normal(shape) * INT8_DEVIATION)
    scales_shape = (*shape[:-2], num_groups, shape[-1])
    scales = deviation / INT8_DEVIATION * np.exp(0.3 * random.standard_normal(scales_shape))
    return {
        f"{name}.weight": np.clip(drawn, statistics.least_int8, 127).astype(np.int8),
        f"{name}.scales": scales.astype(DTYPES[statistics.scales_dtype]),
    }
