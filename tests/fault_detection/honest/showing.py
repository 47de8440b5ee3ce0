"""Ways to show and to fill: caches in other dtypes, garbage in padding, parts of the logits; and published quirks."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from grok_conformance.candidates.torch_eager import operations
from grok_conformance.harness.cases.case import Case, Preset, steps_before
from grok_conformance.harness.contract import Array, split_tap, tap_specs
from tests.fault_detection.honest.products import BF16, FLOAT32
from tests.fault_detection.honest.way import Way

AXES = {spec.operation: spec.axes for spec in tap_specs()}
CACHE = ("kv.keys", "kv.values")


def call_of(key: str) -> int:
    return int(key.partition("/")[0].removeprefix("call"))


def operation_of(key: str) -> str:
    return split_tap(key.partition("/")[2])[1]


def nan_in_padding(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    """Fill every tap's padded tokens with NaN, as CUDA graphs of fixed sizes leave them."""
    del preset
    shown = {}
    for key, x in taps.items():
        axes, call = AXES[operation_of(key)], case.calls[call_of(key)]
        value = x.copy()
        if "t" in axes and value.dtype.kind != "i":
            moved = np.moveaxis(value, (axes.index("b"), axes.index("t")), (0, 1))
            for row, length in enumerate(call.lengths):
                moved[row, length:] = np.nan
        shown[key] = value
    return shown


def nan_in_unused_slots(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    """Fill cache slots that nothing was written to with NaN: pages that were never initialised."""
    del preset
    shown = {}
    for key, x in taps.items():
        value = x.copy()
        if operation_of(key) in CACHE:
            call = call_of(key)
            ends = steps_before(case, call) + case.calls[call].tokens.shape[1]
            for row, end in enumerate(ends):
                value[row, end:] = np.nan
        shown[key] = value
    return shown


def cache_kept(dtype: torch.dtype) -> dict[str, Any]:
    """Return the replacement that keeps the cache in another dtype."""

    def update_cache(cache: Tensor, new: Tensor, positions: Tensor) -> Tensor:
        return original_update(cache, new, positions).to(dtype).to(cache.dtype)

    return {"update_cache": update_cache}


original_update = operations.update_cache


def cache_as_float32(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    del preset, case
    return {key: x.astype(np.float32) if operation_of(key) in CACHE else x for key, x in taps.items()}


def cache_as_float16(taps: dict[str, Array], preset: Preset, case: Case) -> dict[str, Array]:
    del preset, case
    return {key: x.astype(np.float16) if operation_of(key) in CACHE else x for key, x in taps.items()}


def mask_by_length(mask_in: Tensor, positions: Tensor, num_slots: int) -> Tensor:
    """Let every earlier slot be seen: the mask knows lengths, not token ids."""
    del mask_in
    return torch.arange(num_slots) <= positions[:, :, None]


operations_weights = operations.attention_weights


def blind_gives_zero(masked: Tensor, dtype: torch.dtype) -> Tensor:
    blind = masked.amax(-1, keepdim=True) <= -1e29
    return torch.where(blind, 0.0, operations_weights(masked, dtype).float()).to(dtype)


def top_k_unstable(probabilities: Tensor, num_selected_experts: int) -> tuple[Tensor, Tensor]:
    """Give ties to any index: here to the highest."""
    flipped = probabilities.flip(-1)
    gate, index = torch.sort(flipped, dim=-1, descending=True, stable=True)
    index = probabilities.shape[-1] - 1 - index
    return index[..., :num_selected_experts], gate[..., :num_selected_experts]


WAYS = (
    Way(id="bucket_nan", engines="CUDA graphs", does="NaN in the padded part of every tap", showing=nan_in_padding),
    Way(id="nan_in_unused_cache", engines="paged caches", does="unused cache slots hold NaN",
        showing=nan_in_unused_slots),
    Way(id="kv_bf16_in_f32", engines="vLLM", does="cache bfloat16 under float32 compute, declared", dtypes=FLOAT32,
        operations=cache_kept(torch.bfloat16), info={"dtypes": {"layers.*.kv.*": "bfloat16"}}),
    Way(id="kv_f16", engines="llama.cpp", does="cache float16, declared", operations=cache_kept(torch.float16),
        showing=cache_as_float16, info={"dtypes": {"layers.*.kv.*": "float16"}}),
    Way(id="kv_shown_wide", engines="any", does="the cache shown as float32", dtypes=BF16, showing=cache_as_float32),
    Way(id="logits_only", engines="any server", does="only the logits are shown",
        hides=tuple(operation for operation in AXES if operation != "logits")),
    Way(id="outputs_only", engines="transformers", does="only hidden states and logits are shown",
        hides=tuple(operation for operation in AXES if operation not in ("embedding", "output", "logits"))),
    Way(id="mask_by_length", mark="quirk", engines="vLLM, SGLang, llama.cpp",
        does="the mask knows lengths, not token ids",
        operations={"visible_keys": mask_by_length}),
    Way(id="blind_zero", mark="quirk", engines="flash kernels", does="a query that sees no key gives 0",
        operations={"attention_weights": blind_gives_zero}),
    Way(id="topk_unstable", mark="quirk", engines="torch.topk on a GPU", does="ties of experts go to any index",
        operations={"top_k": top_k_unstable}),
)  # fmt: skip
