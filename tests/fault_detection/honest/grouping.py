"""How tokens and experts are grouped: chunks, buckets, last positions, all experts at once, ranks of experts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates import torch_eager
from grok_conformance.candidates.torch_eager import model, operations, parameters
from grok_conformance.harness.cases.case import Case, Preset, tap_key
from grok_conformance.harness.contract import Array, LogitForm
from tests.conformance.torch_cases import torch_taps
from tests.fault_detection.honest.experts import OUTPUT, Roundings, expert
from tests.fault_detection.honest.products import BF16, bf16, summing, tensor_core
from tests.fault_detection.honest.showing import AXES, operation_of
from tests.fault_detection.honest.way import Way, narrow

CHUNK = 2


def in_chunks(preset: Preset, case: Case) -> dict[str, Array]:
    """Run every prompt in chunks of 2 tokens, and show what was computed as of one call."""
    engine = torch_eager.load(replace(preset.config, fprop_dtype=case.fprop_dtype), preset.weights)
    if case.preload is not None:
        engine.preload(*(np.array(x) for x in (case.preload.keys, case.preload.values, case.preload.steps)))
    shown: dict[str, Array] = {}
    for i, call in enumerate(case.calls):
        parts = []
        for start in range(0, call.tokens.shape[1], CHUNK):
            tokens = np.array(call.tokens[:, start : start + CHUNK])
            lengths = np.clip(call.lengths - start, 0, tokens.shape[1]).astype(np.int32)
            run = engine.prefill if call.kind == "prefill" and not start else engine.extend
            parts.append(run(tokens, lengths, ("*",)))
        for tap in parts[0]:
            axes = AXES[operation_of(f"call{i}/{tap}")]
            pieces = [part[tap] for part in parts]
            shown[tap_key(i, tap)] = np.concatenate(pieces, axes.index("t")) if "t" in axes else pieces[-1]
    return shown


def garbage_in_padding(preset: Preset, case: Case) -> dict[str, Array]:
    """Run every prompt with random tokens where it is padded, as buckets that are used again hold them."""
    random = np.random.default_rng(0)
    calls = []
    for call in case.calls:
        padding = np.arange(call.tokens.shape[1]) >= call.lengths[:, None]
        drawn = random.integers(1, preset.config.vocab_size, call.tokens.shape, dtype=np.int32)
        calls.append(replace(call, tokens=np.where(padding, drawn, call.tokens)))
    return torch_taps(preset, replace(case, calls=tuple(calls)))


def last_of(x: Array, lengths: Array) -> Array:
    """Return [b, 1, v] of the last real position of every row."""
    return np.take_along_axis(x, np.maximum(lengths - 1, 0)[:, None, None], 1)


def last_logits(taps: dict[str, Array], preset: Preset, case: Case, *, keeps_shape: bool) -> dict[str, Array]:
    del preset
    shown = dict(taps)
    for i, call in enumerate(case.calls):
        full, last = shown[f"call{i}/logits"], last_of(shown[f"call{i}/logits"], call.lengths)
        if keeps_shape:
            filled = np.full_like(full, np.nan)
            np.put_along_axis(filled, np.maximum(call.lengths - 1, 0)[:, None, None], last, 1)
            last = filled
        shown[f"call{i}/logits"] = last
    return shown


def last_with_nan(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    return last_logits(taps, preset, case, keeps_shape=True)


def last_alone(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    return last_logits(taps, preset, case, keeps_shape=False)


def best_log_probabilities(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    """Show the log probabilities of the best 5 tokens, -inf for the others."""
    del preset, case
    shown = dict(taps)
    for key in [key for key in taps if operation_of(key) == "logits"]:
        logs = torch.log_softmax(torch.from_numpy(taps[key].astype(np.float32)), -1)
        best = torch.topk(logs, 5, -1).values[..., -1:]
        shown[key] = torch.where(logs >= best, logs, -torch.inf).numpy()
    return shown


def all_experts(params: parameters.Params, path: str, x: Tensor, index: Tensor, num_experts: int) -> model.ExpertValues:
    """Run every expert on every token, and pick the chosen."""
    rows = x.flatten(0, 1)
    every = [model.expert(params, path, i, rows) for i in range(num_experts)]
    chosen = index.flatten(0, 1)[..., None]
    picked = []
    for parts in zip(*every, strict=True):
        stacked = torch.stack(parts, 1)
        taken = torch.take_along_dim(stacked, chosen, 1)
        picked.append(torch.unflatten(taken, 0, index.shape[:2]))
    return model.ExpertValues(*picked)


def summed_with_ids(num_ranks: int) -> dict[str, Any]:
    """Return the replacements that know the chosen ids when they sum.

    With one rank the experts are added by id in float32; with several every rank adds its own experts and rounds the
    sum, and the sums of the ranks are added in bf16.
    """
    chosen: list[Tensor] = []

    def top_k(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
        index, gate = original_top_k(probabilities, num_selected_experts)
        chosen[:] = [index]
        return index, gate

    def combine_experts(outputs: Tensor, gate: Tensor, dtype: torch.dtype) -> Tensor:
        is_narrow = dtype == torch.bfloat16
        terms = outputs * (bf16(gate) if is_narrow else gate)[..., None]
        order = torch.argsort(chosen[0], -1)[..., None]
        terms, ids = torch.take_along_dim(terms, order, -2), torch.take_along_dim(chosen[0], order[..., 0], -1)
        sums = [torch.where((ids % num_ranks == rank)[..., None], terms, 0.0).sum(-2) for rank in range(num_ranks)]
        total = torch.zeros_like(sums[0])
        for part in sums:
            total = total + (bf16(part) if is_narrow and num_ranks > 1 else part)
            total = bf16(total) if is_narrow and num_ranks > 1 else total
        return total.to(dtype)

    return {"operations": {"top_k": top_k, "combine_experts": combine_experts}}


original_top_k = operations.top_k


def rounded_by_scales(*, shown: bool) -> dict[str, Any]:
    """Return an expert whose hidden is rounded to the dtype that its weights have, shown so or an operand only."""
    own = Roundings(hidden=True) if shown else Roundings(operand=True)

    def run(params: parameters.Params, path: str, index: int, x: Tensor) -> model.ExpertValues:
        weight = parameters.matrix(params, f"{path}/linear_1/w", index)
        return expert(own if narrow(weight) else Roundings())(params, path, index, x)

    return {"expert": run}


def truncating_experts() -> dict[str, Any]:
    """Return tensor cores everywhere, the hidden rounded as the operand that it is and shown so."""
    made = summing(tensor_core(16, 26))
    return {**made, "model": {**made["model"], "expert": expert(Roundings(hidden=True))}}


WAYS = (
    Way(id="chunked_prefill", mark="quirk", engines="vLLM, SGLang", driving=in_chunks,
        does="prompts in chunks of 2: pads of an earlier chunk are attended"),
    Way(id="bucket_garbage", engines="CUDA graphs", does="random tokens in the padding", driving=garbage_in_padding),
    Way(id="last_only_nan", engines="vLLM", does="logits of the last real position, declared, NaN elsewhere",
        dtypes=BF16, showing=last_with_nan, info={"logits": LogitForm(positions="last")}),
    Way(id="last_only_shape", engines="vLLM", does="logits [b, 1, v] of the last real position, declared", dtypes=BF16,
        showing=last_alone, info={"logits": LogitForm(positions="last")}),
    Way(id="top5_logprobs", engines="any server", does="the best 5 log probabilities, -inf elsewhere, declared",
        dtypes=BF16, showing=best_log_probabilities, info={"logits": LogitForm(kind="log_probabilities", top=5)}),
    Way(id="experts_all_dense", engines="gpt-fast", does="every expert for every token",
        model={"run_experts": all_experts}),
    Way(id="combine_by_id", engines="Mixtral in transformers", does="experts added in the order of their ids",
        **summed_with_ids(1)),
    Way(id="moe_ep2", engines="vLLM with expert parallelism", dtypes=BF16, **summed_with_ids(2),
        does="2 ranks of experts: each adds its own and rounds, all-reduce in bf16", plan=("moe.output",)),
    Way(id="hidden_bf16_by_expert_dtype", engines="a CUTLASS kernel for bf16 weights", dtypes=BF16,
        does="the hidden rounded where the weights are bf16", model=rounded_by_scales(shown=True),
        plan=("moe.expert_hidden",)),
    Way(id="moe_bf16_operands", engines="a tensor core kernel for bf16 weights", dtypes=BF16,
        does="the hidden rounded as an operand where the weights are bf16", model=rounded_by_scales(shown=False),
        plan=OUTPUT),
    Way(id="tensorcore_trunc_h16", engines="Hopper tensor cores", dtypes=BF16, **truncating_experts(),
        does="blocks of 16 truncated; the hidden shown as the bf16 operand that it is",
        plan=("moe.expert_hidden", "moe.expert_output")),
)  # fmt: skip
