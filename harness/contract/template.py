"""my_port: an adapter between an engine and the conformance harness. This page is the tutorial.

1. Judge it as it is; one case is enough to begin with:

       python -m grok_conformance run --candidate my_port.py --case 'unequal/prefill/single_token.float32'

   The verdict is `error: NotImplementedError: build_engine: …`, with its line. Fill in that piece, run again, meet the
   next one.
2. `build_engine` hands the stored weights to the engine, once, and `loaded_weights` gives back what it holds.

       python -m grok_conformance check-weights --candidate my_port.py

   compares that with what is stored, element by element, and names the likely mistake before anything is computed.
3. `clear_cache` and `run` make a forward pass. With the logits alone the level of a pass is `logits`: faults are seen
   there, and seldom found.
4. TAP_MAP says what else the engine records. Each run ends with the taps that the next level would add: the router's,
   which tell an honest near-tie from a fault, then those of every operation, then the caches. A tap that cannot be
   shown is no fault; what lies around it is checked as one. Axes and dtypes: `python -m grok_conformance list taps`.
5. Add `preload(keys, values, steps)`, which sets the caches; the cases that need it are `unsupported` without.
6. Leave --case out: every golden case, in float32 and bfloat16. INFO says which of them the engine computes in.

In the repository of a port, `pytest --conformance-candidate my_port.py` has a test per case and operation.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from grok_conformance.harness.contract import Array, CandidateInfo, LanguageModelConfig, Weights
from grok_conformance.harness.contract.tap_map import TapSource, map_taps, shown_taps

TAP_MAP = (
    TapSource("logits", engine="logits", axes="b t v"),
    # TapSource("layers.*.router.logits", engine="layer{layer}.router", axes="b t e"),
)

INFO = CandidateInfo(name="my_port", version="0", taps=shown_taps(TAP_MAP))


def build_engine(config: LanguageModelConfig, weights: Weights) -> Any:
    """Return the engine with the weights: float matrices as NAME/w, int8 ones as NAME/w.weight and NAME/w.scales."""
    raise NotImplementedError("build_engine: hand both to the engine; raise Unsupported for what it cannot run")


def dequantize(weight: Array, scales: Array) -> Array:
    """Return int8 [.., k, n] times scales [.., G, n]: row k has those of group k // (K / G) (SPEC §3)."""
    per_group = weight.shape[-2] // scales.shape[-2]
    product: Array = weight.astype(np.float32) * np.repeat(scales.astype(np.float32), per_group, axis=-2)
    return product


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Return the model; called once per configuration and compute dtype."""
    return Model(config, build_engine(config, weights))


class Model:
    """The engine with a cache; see `harness.contract.Model` for what each call means."""

    def __init__(self, config: LanguageModelConfig, engine: Any) -> None:
        """Keep the engine."""
        self.config = config
        self.engine = engine

    def loaded_weights(self) -> Mapping[str, Array]:
        """Return the parameters that the engine holds, by stored name; a dequantised matrix as NAME/w."""
        raise NotImplementedError("loaded_weights: return {stored name: array}, or delete this method")

    def clear_cache(self, batch_size: int) -> None:
        """Empty the caches of all rows, and set their steps to 0."""
        raise NotImplementedError("clear_cache: empty the caches of all rows, and set their steps to 0")

    def run(self, tokens: Array, lengths: Array) -> Mapping[str, Array]:
        """Run int32 [b, t] at each row's step and let the steps grow by lengths; return what the engine recorded."""
        raise NotImplementedError("run: run the tokens at each row's step, and return {the engine's name: array}")

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run prompts int32 [b, t], padded beyond lengths [b], from an empty cache."""
        self.clear_cache(len(tokens))
        return self.extend(tokens, lengths, taps)

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run one token more per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run a further chunk, int32 [b, t], of which lengths [b] are real."""
        return map_taps(TAP_MAP, self.config, tokens, taps, self.run(tokens, lengths))
