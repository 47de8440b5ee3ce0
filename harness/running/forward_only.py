"""A module that computes whole sequences, without a cache, as a model: its prefill is judged, and nothing else."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from grok_conformance.harness.contract import Array, LanguageModelConfig, Unsupported
from grok_conformance.harness.contract.attach import attach
from grok_conformance.harness.contract.tap_map import TapSource, engine_names, map_taps
from grok_conformance.harness.running.python_runner import as_array

OUTPUT = "output"
"""The name under which a tap map finds what the module returns; of an object with `logits` those."""


class ForwardOnly:
    """A torch module, called with tokens int64 [b, t]; or a function of tokens int32 [b, t] in NumPy.

    A function returns its output, or all that it records as a mapping by the names of the tap map.
    """

    def __init__(self, forward: Any, tap_map: Sequence[TapSource], config: LanguageModelConfig) -> None:
        """Attach to the modules that the tap map names; raises TypeError for what cannot be called."""
        if not callable(forward):
            raise TypeError(f"load returned {type(forward).__name__}: return a model with prefill, or a module to call")
        self.forward, self.tap_map, self.config = forward, tap_map, config
        self.is_torch = hasattr(forward, "named_modules")
        names = [name for name in engine_names(tap_map) if name != OUTPUT]
        self.record = attach(forward, names) if self.is_torch and names else None

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run prompts int32 [b, t]; they are padded at their end, and no real token sees a pad."""
        del lengths
        seen: dict[str, Any] = {}
        recording: AbstractContextManager[Mapping[str, Array]] = self.record() if self.record else nullcontext(seen)
        with recording as recorded:
            returned = self._call(tokens)
        found = dict(returned) if isinstance(returned, Mapping) and not self.is_torch else {OUTPUT: returned}
        found[OUTPUT] = getattr(found.get(OUTPUT), "logits", found.get(OUTPUT))
        arrays = {name: as_array(name, value) for name, value in found.items() if value is not None}
        return map_taps(self.tap_map, self.config, tokens, taps, {**arrays, **recorded})

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Refuse: there is no cache."""
        del tokens, taps
        raise Unsupported("a forward pass without a cache: give a model with prefill and decode")

    def _call(self, tokens: Array) -> Any:
        if not self.is_torch:
            return self.forward(tokens)
        import torch  # noqa: PLC0415 - only where the candidate is a torch module

        with torch.no_grad():
            return self.forward(torch.from_numpy(tokens.astype(np.int64)))
