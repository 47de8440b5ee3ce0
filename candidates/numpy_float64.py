"""The float64 oracle as a candidate: exact inside every operation, rounded where the specification rounds.

It shows that the harness passes what is right by construction, and it needs no engine.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.cases.case import Cache
from grok_conformance.harness.contract import DTYPES, Array, CandidateInfo, LanguageModelConfig, Weights, split_tap
from grok_conformance.harness.graph.arithmetic import round_to
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.masks import visible_keys
from grok_conformance.harness.graph.oracle import DEFAULT_MARGIN, ExactWeights, cached_taps, empty_cache, walk_call
from grok_conformance.harness.graph.row import Exact, Scope

INFO = CandidateInfo(name="numpy_float64", version=np.__version__, tie_rule=True)


@dataclass
class Model:
    """The oracle with a cache: `previous` holds the caches as the next call reads them, `steps` int32 [b]."""

    weights: ExactWeights
    recorded: Mapping[str, str]
    previous: Mapping[str, Array] | None = None
    steps: Array | None = None

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] from an empty cache."""
        cache = empty_cache(self.weights.config, len(tokens))
        self.previous, self.steps = cached_taps(GROK_1, cache), cache.steps
        return self.extend(tokens, lengths, taps)

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Start from caches [layer, b, s, g, h] at steps int32 [b]."""
        self.previous, self.steps = cached_taps(GROK_1, Cache(keys, values, steps)), steps

    def truncate(self, steps: Array) -> None:
        """Cut each row's cache back to steps int32 [b]: what lies beyond is not seen, and is overwritten."""
        self.steps = steps

    def decode(self, tokens: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run one token per row, int32 [b, 1]."""
        return self.extend(tokens, np.ones(len(tokens), np.int32), taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        """Run tokens int32 [b, t] at each row's step."""
        if self.previous is None or self.steps is None:
            raise ValueError("decode or extend before prefill or preload: there is no cache yet")
        config = self.weights.config
        scope = Scope(config, tokens, self.steps, visible_keys(config, tokens, self.steps), DEFAULT_MARGIN)
        made = {tap: value for tap, _, value in walk_call(scope, self.weights, self.previous, {}, perturb=self.rounded)}
        self.previous = {f"previous:{tap}": value for tap, value in made.items() if ".kv." in tap}
        self.steps = self.steps + lengths
        return {tap: value.astype(DTYPES[self.dtype(tap)]) for tap, value in made.items() if tap in taps}

    def dtype(self, tap: str) -> str:
        """Return the dtype in which a tap is kept."""
        return self.recorded[split_tap(tap)[1]]

    def rounded(self, tap: str, exact: Exact) -> Array:
        """Round a tap to the dtype in which it is kept."""
        dtype = self.dtype(tap)
        return exact.value if dtype == "int32" else round_to(exact.value, dtype)


def load(config: LanguageModelConfig, weights: Weights) -> Model:
    """Prepare the oracle for stored weights."""
    return Model(ExactWeights(config, weights), GROK_1.recorded_dtypes(config, weights))
