"""Faults of real ports that hang on a size, a count or earlier content, put into `torch_eager`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import model, operations
from grok_conformance.candidates.torch_eager.model import KVMemory, TorchModel

RIGHT = {name: getattr(operations, name) for name in dir(operations)}
EXPERT, LAYER = model.expert, model.decoder_layer

Patches = Mapping[tuple[Any, str], Callable[..., Any]]


@dataclass(frozen=True)
class Gated:
    """A fault, the report it is taken from, its patches, and a sweep that meets its trigger."""

    report: str
    case: str
    patches: Patches


def off_where(name: str, is_met: Callable[..., bool]) -> Patches:
    """Return an operation whose last row is 5 % off where its arguments meet a condition."""

    def gated(*arguments: Any) -> Tensor:
        value: Tensor = RIGHT[name](*arguments)
        if is_met(*arguments):
            value = value.clone()
            value[-1] *= 1.05
        return value

    return {(operations, name): gated}


def tail_tile(weights: Tensor, values: Tensor) -> Tensor:
    """Leave the last query of a tail tile of one query unnormalised."""
    averaged: Tensor = RIGHT["attention_heads"](weights, values)
    num_tokens = averaged.shape[1]
    if num_tokens > 16 and num_tokens % 16 == 1:
        averaged = averaged.clone()
        averaged[:, -1] *= 0.5
    return averaged


def full_page(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Drop the first token of every new page when it is decoded."""
    updated: Tensor = RIGHT["update_cache"](cache, new, positions)
    lost = (positions[:, 0] % 32 == 0) & (positions[:, 0] > 0) & (positions.shape[1] == 1)
    return torch.where(lost[:, None, None, None], cache, updated)


def chunk_inside_a_block(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    """Hide the beginning of the block in which a later chunk starts."""
    visible: Tensor = RIGHT["visible_keys"](mask_in, positions, num_slots)
    if positions.shape[1] == 1:
        return visible
    start = positions[:, :1]
    slots = torch.arange(num_slots)
    hidden = (slots >= start // 16 * 16) & (slots < start)  # [b, s]
    return visible & ~hidden[:, None]


def partitions_of_64(masked_logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Merge the softmax of partitions of 64 keys with the log-sum-exp in base 2."""
    if masked_logits.shape[-1] <= 64 or not bool((masked_logits[..., 64:] > -1e29).any()):
        weights: Tensor = RIGHT["attention_weights"](masked_logits, dtype)
        return weights
    parts = torch.split(masked_logits, 64, -1)
    sums = torch.stack([torch.logsumexp(part, -1) for part in parts], -1)
    shares = torch.softmax(sums * np.log(2.0), -1)  # the base is mistaken
    merged = torch.cat([torch.softmax(part, -1) * shares[..., i : i + 1] for i, part in enumerate(parts)], -1)
    return merged.to(dtype)


def odd_group(params: Any, path: str, index: int, x: Tensor) -> model.ExpertValues:
    """Compute the last token of a group beyond 16 with zeros for its up projection."""
    values = EXPERT(params, path, index, x)
    if len(x) > 16 and len(x) % 2 == 1:
        output = values.output.clone()
        output[-1] = 0
        values = values._replace(output=output)
    return values


def ninth_expert_wraps(params: Any, path: str, index: int, x: Tensor) -> model.ExpertValues:
    """Use the first eight experts only."""
    return EXPERT(params, path, index % 8, x)


def layer_ten_skips_its_norm(config: Any, params: Any, path: str, *rest: Any) -> Any:
    """Use another layer's weights from layer 10 on: names sorted as text."""
    return LAYER(config, params, path.replace("layer_10", "layer_1"), *rest)


def first_slots(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
    """Write no slot beyond 4096."""
    updated: Tensor = RIGHT["update_cache"](cache, new, positions)
    return torch.cat((updated[:, :4096], cache[:, 4096:]), 1)


def half_scales(weight: Tensor, scales: Tensor) -> Tensor:
    """Keep scales in float16."""
    dequantized: Tensor = RIGHT["apply_scales"](weight, scales.half().to(scales.dtype))
    return dequantized


class StaleMask(TorchModel):
    """A smaller request sees the padding mask of a larger one before it."""

    largest = 0

    def prefill(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        stale = tokens.shape[1] < self.largest
        self.largest = max(self.largest, tokens.shape[1])
        return super().prefill(tokens, np.maximum(lengths - 1, 1) if stale else lengths, taps)


class PrefixCache(TorchModel):
    """A prompt of which a block was seen before gets the keys and values of the whole earlier prompt."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.seen: dict[bytes, model.Memory] = {}

    def prefill(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        key = tokens[:1, :16].tobytes()
        given = super().prefill(tokens, lengths, taps)
        if tokens.shape[1] > 16 and len(tokens) == 1 and self.memory is not None:
            earlier = self.seen.setdefault(key, self.memory)
            if earlier[0].k.shape == self.memory[0].k.shape:
                self.memory = tuple(
                    KVMemory(old.k, old.v, new.step) for old, new in zip(earlier, self.memory, strict=True)
                )
        return given


class ThirdChunk(TorchModel):
    """The third chunk of a prompt starts at the second one's step."""

    chunks = 0

    def prefill(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        self.chunks = 1
        return super().prefill(tokens, lengths, taps)

    def extend(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        self.chunks += tokens.shape[1] > 1
        if self.chunks == 3 and tokens.shape[1] > 1:
            self.move_by(-1)
            given = super().extend(tokens, lengths, taps)
            self.move_by(1)
            return given
        return super().extend(tokens, lengths, taps)

    def move_by(self, steps: int) -> None:
        self.memory = tuple(replace(cache, step=cache.step + steps) for cache in self.memory or ())


class SharedCut(TorchModel):
    """Every row is cut back by as many tokens as the first."""

    def truncate(self, steps: Any) -> None:
        assert self.memory is not None
        own = self.memory[0].step.numpy()
        super().truncate(np.maximum(own - (own[0] - steps[0]), 0))


def as_model(faulty: type) -> Patches:
    """Return the methods of a faulty model as patches of the right one."""
    return {(model, "TorchModel"): faulty}


LONG, DEEP = "sweep_long/sweep/", "sweep_deep/*"

GATED: Mapping[str, Gated] = {
    "tail_tile": Gated("tt-metal#54413", f"{LONG}prompt_25*", {(operations, "attention_heads"): tail_tile}),
    "full_page": Gated("flashinfer#5090", f"{LONG}nine_rows*", {(operations, "update_cache"): full_page}),
    "chunk_inside_a_block": Gated(
        "nano-vllm#213", f"{LONG}chunks*", {(operations, "visible_keys"): chunk_inside_a_block}
    ),
    "third_chunk": Gated("executorch#9105", f"{LONG}chunks*", as_model(ThirdChunk)),
    "merged_in_another_base": Gated(
        "flashinfer#2113", f"{LONG}prompt_25*", {(operations, "attention_weights"): partitions_of_64}
    ),
    "larger_before_smaller": Gated("TensorRT-LLM#15538", f"{LONG}prompt_25*", as_model(StaleMask)),
    "partial_hit": Gated("vllm#49125", "sweep_prefixes/sweep/shared*", as_model(PrefixCache)),
    "drafts_cut_alike": Gated("aprender#2014", f"{LONG}drafts*", as_model(SharedCut)),
    "fifth_row": Gated(
        "flash-attention#176", f"{LONG}nine_rows*", off_where("attention_heads", lambda w, _v: len(w) > 4)
    ),
    "cache_beyond_128": Gated(
        "tpu-inference#2755", f"{LONG}nine_rows*",
        off_where("rotate", lambda x, p: x.shape[1] == 1 and bool((p > 128).any())),
    ),
    "odd_group": Gated("vllm-ascend#5023", f"{LONG}alike*", {(model, "expert"): odd_group}),
    "sum_beyond_1024": Gated(
        "maxtext#1183", "sweep_above_1024/*", off_where("linear", lambda x, _w: x.shape[-1] > 1024)
    ),
    "width_off_the_tile": Gated(
        "mlx#3887", "sweep_below_256/*", off_where("linear", lambda x, _w: x.shape[-1] > 128 and x.shape[-1] % 16 != 0)
    ),
    "ninth_expert": Gated("tt-metal#50669", DEEP, {(model, "expert"): ninth_expert_wraps}),
    "layers_as_text": Gated("fault catalogue", DEEP, {(model, "decoder_layer"): layer_ten_skips_its_norm}),
    "scales_in_float16": Gated("flashinfer#4087", "sweep_small_scales/*", {(operations, "apply_scales"): half_scales}),
    "positions_of_16_bits": Gated(
        "onnxruntime#29002", "sweep_far/*",
        {(operations, "rotate"): lambda x, p: RIGHT["rotate"](x, p.to(torch.int16).to(torch.int64))},
    ),
    "slots_beyond_4096": Gated("tpu-inference#2755", "sweep_far/*", {(operations, "update_cache"): first_slots}),
    "ids_of_16_bits": Gated(
        "fault catalogue", "sweep_far/*",
        {(operations, "embed"): lambda table, tokens, scale: RIGHT["embed"](table, tokens & 0xFFFF, scale)},
    ),
}  # fmt: skip
"""Every such fault by name."""
