"""Faults of ports that the laws kill, put into `torch_eager` in this process: a law that none breaks is vacuous."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.harness.running import python_runner
from grok_conformance.harness.running.registry import Candidate
from tests.conformance import porting_faults as faults

TORCH = Candidate("torch_eager", ("grok_conformance.candidates.torch_eager",))

ORIGINAL = {name: getattr(operations, name) for name in dir(operations)}
PREFILL, EXPERT = model.TorchModel.prefill, model.expert

Patches = Mapping[tuple[Any, str], Callable[..., Any]]


def in_process(candidate: Candidate, pairs: Sequence[tuple[Path, Path]]) -> None:
    """Answer the jobs as the child process would."""
    for job_dir, out_dir in pairs:
        python_runner.main(candidate.command[-1], job_dir, out_dir)


def noisy_embed(table: Tensor, tokens: Tensor, multiplier: float) -> Tensor:
    embedded: Tensor = ORIGINAL["embed"](table, tokens, multiplier)
    return embedded * (1 + 0.1 * torch.rand(()).to(embedded.dtype))


def positions_of_the_longest_row(steps: Tensor, num_tokens: int) -> Tensor:
    positions: Tensor = ORIGINAL["query_positions"](steps.max().expand_as(steps), num_tokens)
    return positions


def step_of_the_bucket(self: Any, tokens: Any, lengths: Any, taps: Any) -> Any:
    return PREFILL(self, tokens, np.full_like(lengths, tokens.shape[1]), taps)


def own_chunk_only(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    visible: Tensor = ORIGINAL["visible_keys"](mask_in, positions, num_slots)
    if positions.shape[1] == 1:
        return visible
    return visible & (torch.arange(num_slots) >= positions[:, :1, None])


def shifted_expert(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
    num_experts = parameters.matrix(params, f"{path.removesuffix('/moe')}/router/w").shape[-1]
    return EXPERT(params, path, (index + 1) % num_experts, x)


def last_token_unknown(hidden: Tensor, table: Tensor, multiplier: float) -> Tensor:
    logits: Tensor = ORIGINAL["unembed"](hidden, table, multiplier)
    return torch.cat((logits[..., :-1], torch.zeros_like(logits[..., -1:])), -1)


class OneBuffer(model.TorchModel):
    """Every request gets the cache of the one before, whose slots are neither cleared nor left out of the sums."""

    def prefill(self, tokens: Any, lengths: Any, taps: Any) -> Any:
        if self.memory is None or len(self.memory[0].step) != len(tokens):
            return super().prefill(tokens, lengths, taps)
        begin = torch.zeros(len(tokens), dtype=torch.int64)
        return self._run(tokens, lengths, tuple(replace(cache, step=begin) for cache in self.memory), taps)


KILLS: Mapping[str, tuple[str, Patches]] = {
    "determinism": ("noise on the embedding", {(operations, "embed"): noisy_embed}),
    "causality": ("no causal mask", {(operations, "visible_keys"): faults.everything_visible}),
    "batch_invariance": (
        "short rows use the longest row's positions",
        {(operations, "query_positions"): positions_of_the_longest_row},
    ),
    "padding_invariance": ("the step counts pads", {(model.TorchModel, "prefill"): step_of_the_bucket}),
    "decode_like_prefill": (
        "decode at position 0",
        {(operations, "rotate"): faults.rotate_with(lambda positions: positions - positions[:, :1])},
    ),
    "chunks_like_prefill": ("a chunk sees itself only", {(operations, "visible_keys"): own_chunk_only}),
    "expert_permutation": ("expert ids shifted by one", {(model, "expert"): shifted_expert}),
    "kv_head_permutation": ("KV heads tiled, not repeated", {(operations, "attention_logits"): faults.tiled_logits}),
    "channel_permutation": ("groups of scales interleaved", {(operations, "apply_scales"): faults.interleaved_scales}),
    "vocabulary_permutation": ("the last token's logit is 0", {(operations, "unembed"): last_token_unknown}),
    "unwritten_slots": ("a buffer that is not cleared: 0 times NaN", {(torch_eager, "TorchModel"): OneBuffer}),
    "doubling": ("1 + the norm's gain", {(operations, "rms_norm"): faults.norm_plus_one}),
}
"""For each law, a fault that breaks it."""
