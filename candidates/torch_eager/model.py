"""The model: operations wired into layers, and the cache kept between calls (SPEC §4, §5)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.candidates.torch_eager.parameters import FPROP_DTYPES, Params, matrix, to_numpy, to_torch
from grok_conformance.harness.contract import (
    Array,
    LanguageModelConfig,
    TransformerConfig,
    select_taps,
    tap_name,
    tap_names,
)

Tap = Callable[[str, Tensor], Tensor]
"""Shows the value of the operation of that name to the caller, and returns the value."""


@dataclass(frozen=True)
class KVMemory:
    """The cache of one layer: rotated keys k and values v [b, s, g, h], and each row's next position [b] (SPEC §5)."""

    k: Tensor
    v: Tensor
    step: Tensor


Memory = tuple[KVMemory, ...]
"""The caches of all layers."""


class ExpertValues(NamedTuple):
    """What chosen experts compute: activation, up and hidden [.., f], output [.., d] (SPEC §4.6)."""

    activation: Tensor
    up: Tensor
    hidden: Tensor
    output: Tensor


def project(params: Params, name: str, x: Tensor) -> Tensor:
    """Multiply x [b, t, k] by a stored matrix [k, n] in the dtype of x (SPEC §3, §4.4)."""
    return operations.linear(x, matrix(params, name))


def project_expert(params: Params, name: str, index: int, x: Tensor) -> Tensor:
    """Multiply x [n, k] by one expert's stored matrix [k, m] in the wider of their dtypes (SPEC §3, §4.6)."""
    return operations.expert_linear(x, matrix(params, name, index))


def attention(
    config: TransformerConfig, params: Params, path: str, x: Tensor, mask_in: Tensor, memory: KVMemory, tap: Tap
) -> tuple[Tensor, KVMemory]:
    """Return multi-head attention of the normalised stream x [b, t, d], and the updated cache (SPEC §4.4)."""

    def heads(name: str, num_heads: int) -> Tensor:
        return tap(f"attention.{name}", operations.split_heads(project(params, f"{path}/{name}/w", x), num_heads))

    query = heads("query", config.num_q_heads)  # [b, t, q, h]
    key = heads("key", config.num_kv_heads)  # [b, t, g, h]
    value = heads("value", config.num_kv_heads)  # [b, t, g, h]
    positions = operations.query_positions(memory.step, x.shape[1])  # [b, t]
    query = tap("attention.query_rotated", operations.rotate(query, positions))
    key = tap("attention.key_rotated", operations.rotate(key, positions))
    keys = tap("kv.keys", operations.update_cache(memory.k, key, positions))  # [b, s, g, h]
    values = tap("kv.values", operations.update_cache(memory.v, value, positions))  # [b, s, g, h]

    scaled = operations.attention_logits(query, keys, config.attn_output_multiplier)
    logits = tap("attention.logits", operations.cap_logits(scaled))  # [b, g, r, t, s]
    visible = operations.visible_keys(mask_in, positions, keys.shape[1])
    attended = operations.attended_slots(positions, keys.shape[1])
    masked = operations.mask_logits(logits, visible, attended)
    weights = tap("attention.weights", operations.attention_weights(masked, x.dtype))  # [b, g, r, t, s]
    averaged = tap("attention.heads", operations.attention_heads(weights, values))  # [b, t, q, h]
    output = tap("attention.output", project(params, f"{path}/linear/w", averaged.flatten(2)))
    return output, replace(memory, k=keys, v=values)


def expert(params: Params, path: str, index: int, x: Tensor) -> ExpertValues:
    """Run one expert on its tokens x [n, d]; hidden and output are float32 (SPEC §4.6)."""
    activation = project_expert(params, f"{path}/linear/w", index, x)  # [n, f]
    up = project_expert(params, f"{path}/linear_v/w", index, x)  # [n, f]
    hidden = operations.gated_hidden(activation.float(), up.float())  # [n, f]
    output = project_expert(params, f"{path}/linear_1/w", index, hidden)  # [n, d]
    return ExpertValues(activation, up, hidden, output)


def run_experts(params: Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> ExpertValues:
    """Run each token of x [b, t, d] through its experts index [b, t, c]; the values are [b, t, c, ..] (SPEC §4.6).

    Tokens are grouped by expert, and an expert without tokens is skipped.
    """
    chosen = index.flatten()  # [b·t·c]
    order = torch.argsort(chosen, stable=True)
    tokens = x.flatten(0, 1)[order // index.shape[-1]]  # [b·t·c, d], sorted by expert
    groups = torch.split(tokens, torch.bincount(chosen, minlength=num_experts).tolist())
    results = [expert(params, path, i, group) for i, group in enumerate(groups) if len(group)]
    inverse = torch.argsort(order)
    return ExpertValues(
        *(torch.unflatten(torch.cat(parts)[inverse], 0, index.shape) for parts in zip(*results, strict=True))
    )


def moe_block(config: TransformerConfig, params: Params, path: str, x: Tensor, tap: Tap) -> Tensor:
    """Return the mixture of experts of the normalised stream x [b, t, d] (SPEC §4.6)."""
    logits = tap("router.logits", operations.router_logits(x, params[f"{path}/router/w"]))  # [b, t, e]
    probabilities = tap("router.probabilities", operations.router_probabilities(logits))  # [b, t, e]
    index, gate = operations.top_k(probabilities, config.num_selected_experts)  # [b, t, c]
    tap("moe.expert_index", index.to(torch.int32))
    tap("moe.expert_gate", gate)
    values = run_experts(params, f"{path}/moe", x, index, config.num_experts)
    for name, value in values._asdict().items():
        tap(f"moe.expert_{name}", value)
    return operations.combine_experts(values.output, gate, x.dtype)


def dense_block(params: Params, path: str, x: Tensor, tap: Tap) -> Tensor:
    """Return the dense feed-forward of the normalised stream x [b, t, d], all in its dtype (SPEC §4.6)."""
    activation = tap("dense.activation", operations.linear(x, matrix(params, f"{path}/linear/w")))  # [b, t, f]
    up = tap("dense.up", operations.linear(x, matrix(params, f"{path}/linear_v/w")))  # [b, t, f]
    hidden = tap("dense.hidden", operations.gated_hidden(activation, up))  # [b, t, f]
    return operations.linear(hidden, matrix(params, f"{path}/linear_1/w"))


def decoder_layer(
    config: TransformerConfig, params: Params, path: str, x: Tensor, mask_in: Tensor, memory: KVMemory, tap: Tap
) -> tuple[Tensor, KVMemory]:
    """Return the residual stream [b, t, d] after one layer, and the layer's updated cache (SPEC §4.4-§4.7)."""
    norm = tap("attention.norm", operations.rms_norm(x, params[f"{path}/rms_norm/scale"]))
    output, memory = attention(config, params, f"{path}/multi_head_attention", norm, mask_in, memory, tap)
    update = tap("attention.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_1/scale"]))
    x = tap("attention.residual", operations.residual(x, update))

    norm = tap("moe.norm", operations.rms_norm(x, params[f"{path}/rms_norm_2/scale"]))
    if config.num_experts <= 1:
        output = dense_block(params, path, norm, tap)
    else:
        output = moe_block(config, params, path, norm, tap)
    tap("moe.output", output)
    update = tap("moe.output_norm", operations.rms_norm(output, params[f"{path}/rms_norm_3/scale"]))
    return tap("output", operations.residual(x, update)), memory


def layer_tap(tap: Tap, layer: int) -> Tap:
    """Return a tap that puts the layer before the operation's name."""
    return lambda operation, value: tap(tap_name(layer, operation), value)


def forward(config: LanguageModelConfig, params: Params, tokens: Tensor, memory: Memory, tap: Tap) -> Memory:
    """Run tokens int64 [b, t] at each row's step; return the updated caches, their steps unchanged (SPEC §4)."""
    table = params["language_model/in_out_embed/embeddings"]
    mask_in = tokens > config.pad_token  # [b, t]
    x = tap("embedding", operations.embed(table, tokens, config.embedding_multiplier_scale))  # [b, t, d]
    updated = []
    for layer, cache in enumerate(memory):
        path = f"transformer/decoder_layer_{layer}"
        x, new_cache = decoder_layer(config.model, params, path, x, mask_in, cache, layer_tap(tap, layer))
        updated.append(new_cache)
    hidden = tap("final_norm", operations.rms_norm(x, params["language_model/rms_norm/scale"]))
    tap("logits", operations.unembed(hidden, table, config.output_multiplier_scale))  # [b, t, v]
    return tuple(updated)


def init_memory(config: LanguageModelConfig, batch_size: int, device: torch.device) -> Memory:
    """Return empty caches of sequence_len slots in the compute dtype, at step 0 (SPEC §5)."""
    shape = (batch_size, config.sequence_len, config.model.num_kv_heads, config.model.key_size)
    empty = torch.zeros(shape, dtype=FPROP_DTYPES[config.fprop_dtype], device=device)
    cache = KVMemory(empty, empty, torch.zeros(batch_size, dtype=torch.int64, device=device))
    return (cache,) * config.model.num_layers


def advance(memory: Memory, lengths: Tensor) -> Memory:
    """Return the caches with each row's step moved on by its true length, pads not counted (SPEC §5)."""
    return tuple(replace(cache, step=cache.step + lengths) for cache in memory)


def check_call(config: LanguageModelConfig, tokens: Array, lengths: Array, memory: Memory) -> None:
    """Raise ValueError unless tokens [b, t] and lengths [b] fit the vocabulary and the cache (SPEC §9)."""
    batch_size = len(memory[0].step)
    if tokens.ndim != 2 or tokens.shape[0] != batch_size or not tokens.size:  # noqa: PLR2004 - axes b and t
        raise ValueError(f"tokens have shape {tokens.shape}; use [b, t] with b = {batch_size}, the rows of the cache")
    num_tokens = tokens.shape[1]
    if lengths.shape != (batch_size,) or lengths.min() < 0 or lengths.max() > num_tokens:
        raise ValueError(f"lengths are {lengths.tolist()}; give one in 0..{num_tokens} for each of {batch_size} rows")
    outside = np.argwhere((tokens < 0) | (tokens >= config.vocab_size))
    if len(outside):
        row, position = outside[0]
        token, last = tokens[row, position], config.vocab_size - 1
        raise ValueError(f"token {token} in row {row} at position {position} is outside the vocabulary 0..{last}")
    for row, step in enumerate(memory[0].step.tolist()):
        if step + num_tokens > config.sequence_len:
            ends = f"step {step} + {num_tokens} tokens"
            raise ValueError(f"row {row}: {ends} exceeds the cache of sequence_len {config.sequence_len} slots")


class TorchModel:
    """A loaded model and the caches of its current batch; see `harness.contract.Model` for the calls."""

    def __init__(self, config: LanguageModelConfig, params: Params) -> None:
        """Keep the parameters; there is no cache until `prefill` or `preload`."""
        self.config = config
        self.params = params
        self.device = next(iter(params.values())).device
        self.memory: Memory | None = None

    def loaded_weights(self) -> dict[str, Array]:
        """Return the parameters as they are held, by stored name (SPEC §2)."""
        return {name: to_numpy(parameter) for name, parameter in self.params.items()}

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run int32 [b, t], padded beyond lengths [b], from an empty cache; steps become lengths (SPEC §5)."""
        return self._run(tokens, lengths, init_memory(self.config, len(tokens), self.device), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run a further chunk int32 [b, t] at each row's step; steps grow by lengths [b] (SPEC §4.4)."""
        if self.memory is None:
            raise ValueError("there is no cache to continue; call prefill or preload first")
        return self._run(tokens, lengths, self.memory, taps)

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1], at each row's step; steps grow by one (SPEC §4.4)."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from given caches: rotated keys and values [layer, b, s, g, h], steps int32 [b] (SPEC §5).

        Raises ValueError when a shape differs or a step lies outside 0..s.
        """
        model = self.config.model
        batch_size = len(steps)
        shape = (model.num_layers, batch_size, self.config.sequence_len, model.num_kv_heads, model.key_size)
        if keys.shape != shape or values.shape != shape:
            raise ValueError(f"keys {keys.shape} and values {values.shape} must have the shape of the caches {shape}")
        if steps.min() < 0 or steps.max() > self.config.sequence_len:
            raise ValueError(f"steps are {steps.tolist()}; they must lie in 0..{self.config.sequence_len}")
        dtype = FPROP_DTYPES[self.config.fprop_dtype]
        step = self._integers(steps)
        layers = zip(*(to_torch(x).to(self.device, dtype) for x in (keys, values)), strict=True)
        self.memory = tuple(KVMemory(k, v, step) for k, v in layers)

    def truncate(self, steps: Array) -> None:
        """Cut each row's cache back to steps int32 [b] (SPEC §5); what lies beyond is not seen and is overwritten.

        Raises ValueError for a step above the row's own.
        """
        if self.memory is None:
            raise ValueError("there is no cache to cut back; call prefill or preload first")
        cut, own = self._integers(steps), self.memory[0].step
        if bool(((cut < 0) | (cut > own)).any()):
            raise ValueError(f"steps are {cut.tolist()}; they must lie in 0..{own.tolist()}")
        self.memory = tuple(replace(cache, step=cut) for cache in self.memory)

    def _run(self, tokens: Array, lengths: Array, memory: Memory, taps: Collection[str]) -> dict[str, Array]:
        check_call(self.config, tokens, lengths, memory)
        wanted = frozenset(select_taps(tap_names(self.config), taps))
        shown: dict[str, Array] = {}

        def tap(name: str, value: Tensor) -> Tensor:
            if name in wanted:
                shown[name] = to_numpy(value)
            return value

        with torch.inference_mode():
            updated = forward(self.config, self.params, self._integers(tokens), memory, tap)
        self.memory = advance(updated, self._integers(lengths))
        return shown

    def _integers(self, array: Array) -> Tensor:
        """Return tokens, lengths or steps as int64 where the model computes."""
        return to_torch(array).to(self.device, torch.int64)
