"""An honest port in NumPy, written from the specification, whose sums and roundings can be exchanged (SPEC §3, §4)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from grok_conformance.harness.contract import (
    DTYPES,
    Array,
    LanguageModelConfig,
    Weights,
    select_taps,
    tap_name,
    tap_names,
)

Product = Callable[[Array, Array], Array]
"""Multiplies float32 matrices [.., m, k] and [.., k, n]."""

MASKED = np.float32(-1e30)
CAP = np.float32(30)
EPSILON = np.float32(1e-5)


def blas(a: Array, b: Array) -> Array:
    """Sum as the BLAS at hand does."""
    return a @ b


def wide(a: Array, b: Array) -> Array:
    """Sum in float64 and round once."""
    return (a.astype(np.float64) @ b.astype(np.float64)).astype(np.float32)


def ordered(order: Callable[[int], Array]) -> Product:
    """Sum one product after the other, in the order that a function of K gives."""

    def product(a: Array, b: Array) -> Array:
        terms = np.arange(a.shape[-1])[order(a.shape[-1])]
        total = np.zeros((*np.broadcast_shapes(a.shape[:-2], b.shape[:-2]), a.shape[-2], b.shape[-1]), np.float32)
        for k in terms:
            total += a[..., :, k, None] * b[..., None, k, :]
        return total

    return product


def blocked(size: int) -> Product:
    """Sum blocks of so many products each, then the blocks one after the other."""

    def product(a: Array, b: Array) -> Array:
        starts = range(0, a.shape[-1], size)
        blocks = [a[..., :, k : k + size] @ b[..., k : k + size, :] for k in starts]
        total = blocks[0]
        for block in blocks[1:]:
            total = total + block
        return total

    return product


def forwards(num_terms: int) -> Array:
    """Return the order from the first to the last."""
    return np.arange(num_terms)


def backwards(num_terms: int) -> Array:
    """Return the order from the last to the first."""
    return np.arange(num_terms)[::-1]


def shuffled(num_terms: int) -> Array:
    """Return one random order, always the same for the same number of terms."""
    return np.random.default_rng(num_terms).permutation(num_terms)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """What the specification leaves to a port.

    `product` sums; `shards` are the partial sums of the row-parallel products, each rounded to the compute dtype.
    Without `weights_rounded` int8 · scale is not rounded; without `inner_rounded` neither are the looked-up embedding,
    the products of queries and keys, the gate and the product with the table; without `multiplier_rounded` the two
    multipliers are float32 constants.
    """

    product: Product = blas
    shards: int = 1
    weights_rounded: bool = True
    inner_rounded: bool = True
    multiplier_rounded: bool = True
    lowest_first: bool = True


class Cache(NamedTuple):
    """Keys (after RoPE) and values [b, s, g, h] of one layer."""

    keys: Array
    values: Array


class NumpyModel:
    """The port with its weights and caches; see `harness.contract.Model` for the calls."""

    def __init__(self, config: LanguageModelConfig, weights: Weights, arithmetic: Arithmetic) -> None:
        """Dequantize the weights once."""
        self.config = config
        self.arithmetic = arithmetic
        self.dtype = DTYPES[config.fprop_dtype]
        names = {name.removesuffix(".weight") for name in weights if not name.endswith(".scales")}
        self.weights = {name: self._dequantized(weights, name) for name in names}
        scales = weights.get("transformer/decoder_layer_0/moe/linear/w.scales")
        wide_experts = scales is not None and scales.dtype == np.float32
        self.expert_dtype = np.dtype(np.float32) if wide_experts else self.dtype
        self.caches: list[Cache] = []
        self.steps: Array = np.zeros(0, np.int32)

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        sizes = self.config.axis_sizes
        shape = (len(tokens), *(sizes[axis] for axis in "sgh"))
        self.caches = [Cache(*np.zeros((2, *shape), np.float32)) for _ in range(self.config.model.num_layers)]
        self.steps = np.zeros(len(tokens), np.int32)
        return self.extend(tokens, lengths, taps)

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        layers = zip(keys.astype(np.float32), values.astype(np.float32), strict=True)
        self.caches, self.steps = [Cache(k, v) for k, v in layers], steps

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step."""
        shown: dict[str, Array] = {}
        self._forward(tokens, shown)
        self.steps = self.steps + lengths
        wanted = select_taps(tap_names(self.config), taps)
        return {name: shown[name] for name in wanted}

    # Arithmetic

    def _round(self, x: Array, dtype: np.dtype[Any] | None = None) -> Array:
        return x.astype(dtype or self.dtype).astype(np.float32)

    def _inner(self, x: Array) -> Array:
        return self._round(x) if self.arithmetic.inner_rounded else x

    def _multiplier(self, scale: float) -> Array:
        constant = np.asarray(scale, np.float32)
        return self._round(constant) if self.arithmetic.multiplier_rounded else constant

    def _dequantized(self, weights: Weights, name: str) -> Array:
        narrow = self.arithmetic.weights_rounded and self.dtype != np.float32
        if name in weights:
            matrix = name.endswith("/w") and not name.endswith("router/w")
            return self._round(weights[name]) if narrow and matrix else weights[name].astype(np.float32)
        weight, scales = weights[f"{name}.weight"], weights[f"{name}.scales"]
        rows = np.repeat(scales.astype(np.float32), weight.shape[-2] // scales.shape[-2], axis=-2)
        product = weight.astype(np.float32) * rows
        if narrow:
            product = self._round(product, scales.dtype)
        return self._round(product) if narrow and "/moe/" not in name else product

    def _row_parallel(self, x: Array, w: Array) -> Array:
        parts = self.arithmetic.shards
        if parts == 1:
            return self._round(self.arithmetic.product(x, w))
        total = np.zeros((*x.shape[:-1], w.shape[-1]), np.float32)
        for part_of_x, part_of_w in zip(np.split(x, parts, -1), np.split(w, parts, -2), strict=True):
            total = self._round(total + self._round(self.arithmetic.product(part_of_x, part_of_w)))
        return total

    # Model

    def _forward(self, tokens: Array, shown: dict[str, Array]) -> None:
        table, c = self.weights["language_model/in_out_embed/embeddings"], self.config
        x = self._round(self._inner(table[tokens]) * self._multiplier(c.embedding_multiplier_scale))
        shown["embedding"] = x.astype(self.dtype)
        for layer in range(c.model.num_layers):
            x = self._layer(layer, x, tokens, shown)
        x = self._norm(x, "language_model/rms_norm")
        shown["final_norm"] = x.astype(self.dtype)
        product = self._inner(self.arithmetic.product(x, self._round(table).T))
        shown["logits"] = (product * self._multiplier(c.output_multiplier_scale)).astype(self.dtype)

    def _norm(self, x: Array, path: str) -> Array:
        ones = np.ones((x.shape[-1], 1), np.float32)
        mean = self.arithmetic.product(x * x, ones) / np.float32(x.shape[-1])
        return self._round(x / np.sqrt(mean + EPSILON) * self.weights[f"{path}/scale"])

    def _layer(self, layer: int, x: Array, tokens: Array, shown: dict[str, Array]) -> Array:
        prefix = f"transformer/decoder_layer_{layer}/"

        def tap(name: str, value: Array, dtype: np.dtype[Any] | None = None) -> Array:
            shown[tap_name(layer, name)] = value.astype(dtype or self.dtype)
            return value

        normed = tap("attention.norm", self._norm(x, f"{prefix}rms_norm"))
        update = self._attention(layer, f"{prefix}multi_head_attention/", normed, tokens, tap)
        update = tap("attention.output_norm", self._norm(update, f"{prefix}rms_norm_1"))
        x = tap("attention.residual", self._round(x + update))
        normed = tap("moe.norm", self._norm(x, f"{prefix}rms_norm_2"))
        update = self._dense(prefix, normed, tap) if self.config.dense else self._experts(prefix, normed, tap)
        update = tap("moe.output_norm", self._norm(tap("moe.output", update), f"{prefix}rms_norm_3"))
        return tap("output", self._round(x + update))

    def _attention(self, layer: int, prefix: str, x: Array, tokens: Array, tap: Callable[..., Array]) -> Array:
        m, product = self.config.model, self.arithmetic.product
        b, t, _ = x.shape
        query, key, value = (
            tap(
                f"attention.{name}",
                self._round(product(x, self.weights[f"{prefix}{name}/w"])).reshape(b, t, -1, m.key_size),
            )
            for name in ("query", "key", "value")
        )
        positions = self.steps[:, None] + np.arange(t)  # [b, t]
        query = tap("attention.query_rotated", self._rotate(query, positions))  # [b, t, q, h]
        key = tap("attention.key_rotated", self._rotate(key, positions))  # [b, t, g, h]
        keys, values = (x.copy() for x in self.caches[layer])
        rows = np.arange(b)[:, None]
        keys[rows, positions], values[rows, positions] = key, value
        self.caches[layer] = Cache(tap("kv.keys", keys), tap("kv.values", values))
        grouped = query.reshape(b, t, m.num_kv_heads, -1, m.key_size).transpose(0, 2, 3, 1, 4)  # [b, g, r, t, h]
        sums = self._inner(product(grouped, keys.transpose(0, 2, 3, 1)[:, :, None]))  # [b, g, r, t, s]
        logits = CAP * np.tanh(sums * np.float32(m.attn_output_multiplier) / CAP)
        tap("attention.logits", logits, np.dtype(np.float32))
        visible, present = visible_keys(self.config, tokens, self.steps)
        masked = np.where(visible[:, None, None], logits, MASKED)
        masked = np.where(present[:, None, None, None], masked, -np.inf).astype(np.float32)
        weights = tap("attention.weights", self._round(softmax(masked)))
        heads = product(weights, values.transpose(0, 2, 1, 3)[:, :, None])  # [b, g, r, t, h]
        heads = tap("attention.heads", self._round(heads.transpose(0, 3, 1, 2, 4)).reshape(b, t, -1, m.key_size))
        return tap("attention.output", self._row_parallel(heads.reshape(b, t, -1), self.weights[f"{prefix}linear/w"]))

    def _rotate(self, x: Array, positions: Array) -> Array:
        half = x.shape[-1] // 2
        frequencies = np.float32(10000) ** (-np.arange(half, dtype=np.float32) / np.float32(half))
        phase = (positions[:, :, None].astype(np.float32) * frequencies)[:, :, None]  # [b, t, 1, h/2]
        cos, sin = np.cos(phase), np.sin(phase)
        first, second = x[..., :half], x[..., half:]
        return self._round(np.concatenate([first * cos - second * sin, second * cos + first * sin], -1))

    def _experts(self, prefix: str, x: Array, tap: Callable[..., Array]) -> Array:
        product, single = self.arithmetic.product, np.dtype(np.float32)
        scores = tap("router.logits", product(x, self.weights[f"{prefix}router/w"]), single)
        probabilities = tap("router.probabilities", softmax(scores), single)
        sign = 1 if self.arithmetic.lowest_first else -1
        order = np.argsort(-probabilities[..., ::sign], axis=-1, kind="stable")[
            ..., : self.config.model.num_selected_experts
        ]
        index = tap("moe.expert_index", order if sign == 1 else probabilities.shape[-1] - 1 - order, np.dtype(np.int32))
        gate = tap("moe.expert_gate", np.take_along_axis(probabilities, index, -1), single)
        rows = x[:, :, None, None]  # [b, t, 1, 1, d]
        activation, up = (
            tap(f"moe.expert_{name}", self._expert_in(rows, self._matrix(prefix, path)[index]), self.expert_dtype)
            for name, path in (("activation", "linear"), ("up", "linear_v"))
        )
        hidden = tap("moe.expert_hidden", gelu(activation) * up, single)  # [b, t, c, f]
        outputs = product(hidden[..., None, :], self._matrix(prefix, "linear_1")[index])[..., 0, :]
        tap("moe.expert_output", outputs, single)
        return self._round((self._inner(gate)[..., None] * outputs).sum(-2))

    def _expert_in(self, rows: Array, w: Array) -> Array:
        return self._round(self.arithmetic.product(rows, w)[..., 0, :], self.expert_dtype)

    def _matrix(self, prefix: str, path: str) -> Array:
        return self.weights[f"{prefix}moe/{path}/w"]

    def _dense(self, prefix: str, x: Array, tap: Callable[..., Array]) -> Array:
        product = self.arithmetic.product
        activation = tap("dense.activation", self._round(product(x, self.weights[f"{prefix}linear/w"])))
        up = tap("dense.up", self._round(product(x, self.weights[f"{prefix}linear_v/w"])))
        hidden = tap("dense.hidden", self._round(self._inner(gelu(activation)) * up))
        return self._row_parallel(hidden, self.weights[f"{prefix}linear_1/w"])


def gelu(x: Array) -> Array:
    """Return the tanh approximation in float32."""
    factor = np.float32(np.sqrt(2 / np.pi))
    return np.float32(0.5) * x * (1 + np.tanh(factor * (x + np.float32(0.044715) * x * x * x)))


def softmax(x: Array) -> Array:
    """Return the softmax over the last axis in float32."""
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def visible_keys(config: LanguageModelConfig, tokens: Array, steps: Array) -> tuple[Array, Array]:
    """Return which slots a query sees, bool [b, t, s], and which it averages over if it sees none, bool [b, s]."""
    t, slots = tokens.shape[1], np.arange(config.sequence_len)
    real = tokens > config.pad_token
    visible = slots <= (steps[:, None] + np.arange(t))[..., None]
    if t == 1:
        return visible & real[..., None], np.ones((len(tokens), len(slots)), bool)
    for row, step in enumerate(steps):
        visible[row, :, step : step + t] &= real[row]
    return visible, slots < (steps + t)[:, None]
