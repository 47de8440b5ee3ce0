"""The transformers-style module attached by rows: each alone, without padding, with the cache that it grows."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import torch

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Unsupported, Weights
from grok_conformance.harness.contract.attach import Recording, attach
from grok_conformance.harness.contract.rows import RowByRow
from grok_conformance.harness.contract.tap_map import TapSource, engine_names, map_taps, shown_taps
from tests.strangers import attached

CACHE = (
    TapSource("layers.*.kv.keys", "keys.{layer}", "b g s h"),
    TapSource("layers.*.kv.values", "values.{layer}", "b g s h"),
)
TAP_MAP = attached.TAP_MAP + CACHE
INFO = CandidateInfo(name="attached_rows", version="1", taps=shown_taps(TAP_MAP), fprop_dtypes=("float32",))


class Session:
    def __init__(self, config: LanguageModelConfig, module: torch.nn.Module, record: Recording) -> None:
        self.config, self.module, self.record = config, module, record
        self.past: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        del lengths
        before = 0 if self.past is None else self.past[0][0].shape[2]
        # In the published model a pad's key is masked in its own call, and attended once it is in the cache.
        mask = torch.cat([torch.ones(1, before, dtype=torch.bool), torch.tensor(tokens) > 0], -1)
        with self.record() as recorded, torch.no_grad():
            made = self.module(torch.tensor(tokens), mask, self.past)
        self.past = made["past_key_values"]
        seen = {**recorded, "grok": made["logits"].numpy()}
        for layer, (keys, values) in enumerate(made["past_key_values"]):
            seen |= {f"keys.{layer}": keys.numpy(), f"values.{layer}": values.numpy()}
        return map_taps(TAP_MAP, self.config, tokens, taps, seen)

    prefill = extend

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        return self.extend(tokens, np.ones(1, np.int32), taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        used = [torch.tensor(x[:, :, : steps[0]]).transpose(2, 3) for x in (keys, values)]  # [layer, 1, g, s, h]
        self.past = tuple(zip(*used, strict=True))


def load(config: LanguageModelConfig, weights: Weights) -> RowByRow:
    if config.dense:
        raise Unsupported("no dense block")
    module = attached.module_of(config, weights)
    record = attach(module, set(engine_names(attached.TAP_MAP)) - {"grok"})
    return RowByRow(lambda: Session(config, module, record))
