"""Which keys a query sees, and which elements of a tap are compared (SPEC §4.3, §4.4, §5)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from grok_conformance.harness.cases.case import Case, steps_before
from grok_conformance.harness.contract import Array, LanguageModelConfig, TapSpec


def visible_keys(config: LanguageModelConfig, tokens: Array, steps: Array) -> Array:
    """Return bool [b, t, s]: whether a query of the call sees a cache slot (SPEC §4.4).

    Key j is visible to query i when j ≤ step + i, and keys of this call only when they are not pads. With t = 1 the
    mask of the current token holds for the whole row: a pad token sees no key.
    """
    num_tokens = tokens.shape[1]
    real = tokens > config.pad_token  # [b, t]
    slots = np.arange(config.sequence_len)
    causal = slots <= (steps[:, None] + np.arange(num_tokens))[..., None]  # [b, t, s]
    if num_tokens == 1:
        return causal & real[..., None]
    real_slots = np.ones((len(tokens), config.sequence_len), bool)
    for row, step in enumerate(steps):
        real_slots[row, step : step + num_tokens] = real[row]
    return causal & real_slots[:, None, :]


def compared(case: Case, call: int, config: LanguageModelConfig) -> dict[str, Array]:
    """Return the mask of each kind of comparison in the tap contract, by kind.

    tokens bool [b, t]; slots bool [b, s]; visible bool [b, t, s]; weights bool [b, t, s]. A query that sees no key does
    not count, nor does the cache slot that it fills, unless the case is `published_degenerate`. A slot that nothing was
    written to never counts.
    """
    tokens, lengths = case.calls[call].tokens, case.calls[call].lengths
    steps = steps_before(case, call)
    visible = visible_keys(config, tokens, steps)
    real = np.arange(tokens.shape[1]) < lengths[:, None]  # [b, t]
    slots = np.arange(config.sequence_len) < (steps + lengths)[:, None]  # [b, s]
    if not case.published_degenerate:
        for row, (step, blind) in enumerate(zip(steps, real & ~visible.any(-1), strict=True)):
            slots[row, step : step + len(blind)] &= ~blind
        real = real & visible.any(-1)
    return {
        "tokens": real,
        "slots": slots,
        "visible": visible & real[..., None],
        "weights": np.broadcast_to(real[..., None], visible.shape),
    }


def expand(mask: Array, spec: TapSpec) -> Array:
    """Add the axes of a tap to the mask of its kind, so that the two broadcast."""
    letters = {"tokens": "bt", "slots": "bs", "visible": "bts", "weights": "bts"}[spec.compared]
    return np.reshape(mask, [mask.shape[letters.index(axis)] if axis in letters else 1 for axis in spec.axes])


def masks_of(case: Case, config: LanguageModelConfig, specs: Sequence[TapSpec]) -> dict[tuple[int, str], Array]:
    """Return the mask of every (call, operation) of a case, with the axes of the operation's tap."""
    return {
        (call, spec.operation): expand(kinds[spec.compared], spec)
        for call in range(len(case.calls))
        for kinds in [compared(case, call, config)]
        for spec in specs
    }
