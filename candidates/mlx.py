"""Grok-1 in MLX, Apple's array library, on the CPU: written from the specification (SPEC §2-§5).

Every product is taken in float32 and rounded once; weights are multiplied out at load. Experts are chosen on the host,
because MLX promises no order of equal scores.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from importlib import metadata

import mlx.core as mx
import numpy as np

from grok_conformance.harness.contract import (
    DTYPES,
    Array,
    CandidateInfo,
    LanguageModelConfig,
    Unsupported,
    Weights,
    tap_name,
)

INFO = CandidateInfo(name="mlx", version=metadata.version("mlx"))

Values = dict[str, mx.array]
"""What a layer computes, by operation."""

ROPE_BASE = 10_000.0
LOGIT_CAP = 30.0
MASKED = -1e30
NORM_EPSILON = 1e-5


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Return a model with the stored weights (SPEC §2) on MLX's CPU device.

    Raises Unsupported for a compute dtype other than float32 and bfloat16.
    """
    if config.fprop_dtype not in INFO.fprop_dtypes:
        raise Unsupported(f"fprop_dtype {config.fprop_dtype!r}: mlx computes in {' or '.join(INFO.fprop_dtypes)}")
    mx.set_default_device(mx.cpu)
    names = {name.removesuffix(".weight") for name in weights if not name.endswith(".scales")}
    return Model(config, {name: parameter(name, weights, config.fprop_dtype) for name in sorted(names)})


def to_mlx(x: Array) -> mx.array:
    """Return an array on the device, bfloat16 bit for bit."""
    return mx.array(x.view(np.uint16)).view(mx.bfloat16) if x.dtype == DTYPES["bfloat16"] else mx.array(x)


def to_numpy(x: mx.array) -> Array:
    """Return an array on the host, bfloat16 bit for bit."""
    return np.array(x.view(mx.uint16)).view(DTYPES["bfloat16"]) if x.dtype == mx.bfloat16 else np.array(x)


def parameter(name: str, weights: Weights, fprop_dtype: str) -> mx.array:
    """Return a parameter as it is used: matrices multiplied out and rounded, norms and the router float32 (SPEC §3).

    Experts keep the dtype of their scales; all other matrices are rounded to the compute dtype.
    """
    compute = getattr(mx, fprop_dtype)
    if name in weights:
        stored = to_mlx(np.asarray(weights[name]))
        return stored if name.endswith(("scale", "router/w")) else stored.astype(compute)
    weight, scales = (to_mlx(np.asarray(weights[f"{name}.{part}"])) for part in ("weight", "scales"))
    dtype = mx.float32 if compute == mx.float32 else scales.dtype
    groups = weight.reshape(*scales.shape[:-1], -1, weight.shape[-1])  # [.., G, k/G, n]
    product = (groups.astype(dtype) * scales.astype(dtype)[..., None, :]).reshape(weight.shape)
    return product if "/moe/" in name else product.astype(compute)


def multiply(x: mx.array, w: mx.array) -> mx.array:
    """Multiply x by a matrix in float32, whatever their dtypes."""
    return x.astype(mx.float32) @ w.astype(mx.float32)


def rms_norm(x: mx.array, scale: mx.array) -> mx.array:
    """Return x · rsqrt(mean(x²) + 1e-5) · scale over the last axis, float32 inside, in the dtype of x (SPEC §4)."""
    wide = x.astype(mx.float32)
    mean = mx.mean(mx.square(wide), axis=-1, keepdims=True)
    return (wide * mx.rsqrt(mean + NORM_EPSILON) * scale).astype(x.dtype)


def rotate(x: mx.array, positions: Array) -> mx.array:
    """Rotate the halves of every head of x [b, t, n, h] by its position int [b, t] (SPEC §4.4)."""
    half = x.shape[-1] // 2
    frequencies = (ROPE_BASE ** (-np.arange(half) / half)).astype(np.float32)
    phase = mx.array(positions[:, :, None, None].astype(np.float32) * frequencies)  # [b, t, 1, h/2]
    cos, sin = mx.cos(phase), mx.sin(phase)
    first, second = (x[..., part].astype(mx.float32) for part in (slice(half), slice(half, None)))
    return mx.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1).astype(x.dtype)


def gelu(x: mx.array) -> mx.array:
    """Return the tanh approximation of gelu (SPEC §4.6)."""
    return 0.5 * x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def visible_keys(real: Array, steps: Array, num_slots: int) -> tuple[Array, Array]:
    """Return which keys each query sees, bool [b, t, s], and which slots one averages that sees none, bool [b, 1, s].

    `real` bool [b, t] is false at pads, which hide the keys of their own call; for a single token, the whole row.
    """
    t, slots = real.shape[1], np.arange(num_slots)
    if t == 1:
        return (slots <= steps[:, None, None]) & real[:, :, None], np.ones((len(real), 1, num_slots), bool)
    visible = slots <= steps[:, None, None] + np.arange(t)[:, None]  # [b, t, s]
    for row, step in enumerate(steps):
        visible[row, :, step : step + t] &= real[row]
    return visible, slots < (steps + t)[:, None, None]


@dataclass
class Model:
    """The parameters by stored name, and the caches and steps of the next call; see `harness.contract.Model`."""

    config: LanguageModelConfig
    params: Mapping[str, mx.array]
    keys: list[Array] = field(default_factory=list)
    values: list[Array] = field(default_factory=list)
    steps: Array = field(default_factory=lambda: np.zeros(0, np.int32))

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        sizes = self.config.axis_sizes
        shape = (self.config.model.num_layers, len(tokens), *(sizes[axis] for axis in "sgh"))
        empty = np.zeros(shape, DTYPES[self.config.fprop_dtype])
        self.preload(empty, empty, np.zeros(len(tokens), np.int32))
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        self.keys, self.values, self.steps = [x.copy() for x in keys], [x.copy() for x in values], steps.copy()

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step; steps grow by lengths int32 [b] (SPEC §5)."""
        config, dtype = self.config, getattr(mx, self.config.fprop_dtype)
        self._check(tokens)
        table = self.params["language_model/in_out_embed/embeddings"]
        x = table[mx.array(tokens)] * mx.array(config.embedding_multiplier_scale, dtype)
        shown = {"embedding": x}
        for layer in range(config.model.num_layers):
            made = self._layer(layer, x, tokens)
            x = made["output"]
            shown |= {tap_name(layer, name): value for name, value in made.items()}
        shown["final_norm"] = rms_norm(x, self.params["language_model/rms_norm/scale"])
        product = multiply(shown["final_norm"], table.T).astype(dtype)
        shown["logits"] = product * mx.array(config.output_multiplier_scale, dtype)
        self.steps = self.steps + lengths
        return {name: to_numpy(shown[name]) for name in taps}

    def _check(self, tokens: Array) -> None:
        """Raise ValueError for a token outside the vocabulary and for a cache without room (SPEC §9)."""
        if not self.keys:
            raise ValueError("there is no cache to continue; call prefill or preload first")
        outside = np.argwhere((tokens < 0) | (tokens >= self.config.vocab_size))
        if len(outside):
            row, position = outside[0]
            raise ValueError(f"token {tokens[row, position]} in row {row} at position {position} is no token")
        full = np.flatnonzero(self.steps + tokens.shape[1] > self.config.sequence_len)
        if len(full):
            raise ValueError(f"row {full[0]}: {tokens.shape[1]} more tokens exceed the cache at {self.steps[full[0]]}")

    def _layer(self, layer: int, x: mx.array, tokens: Array) -> Values:
        """Return what a layer makes of the residual stream x [b, t, d] (SPEC §4.4-§4.7)."""
        params = {
            name.removeprefix(prefix): value
            for prefix in [f"transformer/decoder_layer_{layer}/"]
            for name, value in self.params.items()
            if name.startswith(prefix)
        }
        made: Values = {"attention.norm": rms_norm(x, params["rms_norm/scale"])}
        made |= self._attention(layer, params, made["attention.norm"], tokens)
        made["attention.output_norm"] = rms_norm(made["attention.output"], params["rms_norm_1/scale"])
        made["attention.residual"] = x + made["attention.output_norm"]
        norm = made["moe.norm"] = rms_norm(made["attention.residual"], params["rms_norm_2/scale"])
        made |= dense_block(params, norm) if self.config.dense else mixture(params, norm, self.config)
        made["moe.output_norm"] = rms_norm(made["moe.output"], params["rms_norm_3/scale"])
        made["output"] = made["attention.residual"] + made["moe.output_norm"]
        return made

    def _attention(self, layer: int, params: Mapping[str, mx.array], x: mx.array, tokens: Array) -> Values:
        """Return the values of attention over x [b, t, d], and update the layer's cache (SPEC §4.4, §5)."""
        model, (b, t, _) = self.config.model, x.shape
        positions = self.steps[:, None] + np.arange(t)  # [b, t]
        query, key, value = (
            multiply(x, params[f"multi_head_attention/{name}/w"]).astype(x.dtype).reshape(b, t, -1, model.key_size)
            for name in ("query", "key", "value")
        )
        rotated, new_keys = rotate(query, positions), rotate(key, positions)
        rows = np.arange(b)[:, None]
        self.keys[layer][rows, positions] = to_numpy(new_keys)
        self.values[layer][rows, positions] = to_numpy(value)
        keys, values = to_mlx(self.keys[layer]), to_mlx(self.values[layer])
        grouped = rotated.reshape(b, t, model.num_kv_heads, -1, model.key_size).transpose(
            0, 2, 3, 1, 4
        )  # [b, g, r, t, h]
        products = multiply(grouped, keys.transpose(0, 2, 3, 1)[:, :, None]).astype(x.dtype).astype(mx.float32)
        logits = LOGIT_CAP * mx.tanh(products * model.attn_output_multiplier / LOGIT_CAP)  # [b, g, r, t, s]
        visible, blind = visible_keys(tokens > self.config.pad_token, self.steps, keys.shape[1])
        masked = mx.where(mx.array(visible[:, None, None]), logits, MASKED)
        masked = mx.where(mx.array((visible | blind)[:, None, None]), masked, -math.inf)
        weights = mx.softmax(masked, axis=-1, precise=True).astype(x.dtype)
        heads = multiply(weights, values.transpose(0, 2, 1, 3)[:, :, None])  # [b, g, r, t, h]
        heads = heads.transpose(0, 3, 1, 2, 4).reshape(query.shape).astype(x.dtype)
        output = multiply(heads.reshape(b, t, -1), params["multi_head_attention/linear/w"]).astype(x.dtype)
        return {
            "attention.query": query,
            "attention.key": key,
            "attention.value": value,
            "attention.query_rotated": rotated,
            "attention.key_rotated": new_keys,
            "kv.keys": keys,
            "kv.values": values,
            "attention.logits": logits,
            "attention.weights": weights,
            "attention.heads": heads,
            "attention.output": output,
        }


def dense_block(params: Mapping[str, mx.array], x: mx.array) -> Values:
    """Return the values of a block without experts, all in the compute dtype (SPEC §4.6)."""
    activation, up = (multiply(x, params[f"{name}/w"]).astype(x.dtype) for name in ("linear", "linear_v"))
    hidden = gelu(activation.astype(mx.float32)).astype(x.dtype) * up
    output = multiply(hidden, params["linear_1/w"]).astype(x.dtype)
    return {"dense.activation": activation, "dense.up": up, "dense.hidden": hidden, "moe.output": output}


def mixture(params: Mapping[str, mx.array], x: mx.array, config: LanguageModelConfig) -> Values:
    """Return the values of the experts that the router chooses for x [b, t, d] (SPEC §4.6)."""
    logits = multiply(x, params["router/w"])
    probabilities = mx.softmax(logits, axis=-1, precise=True)
    order = np.argsort(-to_numpy(probabilities), axis=-1, kind="stable")  # equal scores: the lowest index first
    index = order[..., : config.model.num_selected_experts].astype(np.int32)  # [b, t, c]
    gate = mx.take_along_axis(probabilities, mx.array(index), axis=-1)
    made = run_experts(params, x.reshape(-1, x.shape[-1]), index)
    output = mx.sum(gate.astype(x.dtype).astype(mx.float32)[..., None] * made["moe.expert_output"], axis=-2)
    return {
        "router.logits": logits,
        "router.probabilities": probabilities,
        "moe.expert_index": mx.array(index),
        "moe.expert_gate": gate,
        **made,
        "moe.output": output.astype(x.dtype),
    }


def run_experts(params: Mapping[str, mx.array], x: mx.array, index: Array) -> Values:
    """Return the values [b, t, c, ..] of the chosen experts int [b, t, c], each run on its own tokens of x [b·t, d]."""
    chosen = index.reshape(-1)  # [b·t·c]
    order = np.argsort(chosen, kind="stable")
    parts: dict[str, list[mx.array]] = {}
    for expert in np.unique(chosen).tolist():
        rows = x[mx.array(order[chosen[order] == expert] // index.shape[-1])]
        for name, value in run_expert(params, rows, expert).items():
            parts.setdefault(name, []).append(value)
    back = mx.array(np.argsort(order))
    return {name: mx.concatenate(each)[back].reshape(*index.shape, -1) for name, each in parts.items()}


def run_expert(params: Mapping[str, mx.array], x: mx.array, expert: int) -> Values:
    """Return the values of one expert for its rows x [n, d]; hidden and output are float32 (SPEC §4.6)."""
    linear, linear_v, linear_1 = (params[f"moe/{name}/w"][expert] for name in ("linear", "linear_v", "linear_1"))
    dtype = mx.float32 if mx.float32 in (linear.dtype, x.dtype) else x.dtype
    activation, up = multiply(x, linear).astype(dtype), multiply(x, linear_v).astype(dtype)
    hidden = gelu(activation.astype(mx.float32)) * up.astype(mx.float32)
    return {
        "moe.expert_activation": activation,
        "moe.expert_up": up,
        "moe.expert_hidden": hidden,
        "moe.expert_output": multiply(hidden, linear_1),
    }
