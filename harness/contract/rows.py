"""A batch for an engine that takes one row at a time: every row in a session of its own, without padding.

    def load(config, weights):
        module = …                                              # loaded once
        return RowByRow(lambda: Session(config, module))        # a model that is only asked for batches of one row

So a port without padding, with rows of one length only, or with a batch of one, can answer every case.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from grok_conformance.harness.contract.candidate import Array, Unsupported
from grok_conformance.harness.contract.taps import SPECS, split_tap

Answers = list[Mapping[str, Array]]
"""What the sessions of all rows gave in one call."""


class RowByRow:
    """A model of any batch, made of sessions: models that are asked for one row, [1, t], of real tokens alone."""

    def __init__(self, begin: Callable[[], Any]) -> None:
        """Take the function that begins a session."""
        self.begin = begin
        self.sessions: list[Any] = []

    def prefill(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Begin a session for every row of int32 [b, t], and run its first tokens."""
        self.sessions = [self.begin() for _ in tokens]
        return self._ask("prefill", tokens, lengths, taps)

    def extend(self, tokens: Array, lengths: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run a further chunk of every row; raises Unsupported for a session that cannot, or a row without tokens."""
        if not lengths.all():
            raise Unsupported("row by row, a row without a new token is not asked")
        return self._ask("extend", tokens, lengths, taps)

    def decode(self, tokens: Array, taps: Collection[str]) -> Mapping[str, Array]:
        """Run one more token of every row, int32 [b, 1]."""
        rows = [session.decode(tokens[[i]], taps) for i, session in enumerate(self.sessions)]
        return together(rows, 1, [1] * len(rows))

    def preload(self, keys: Array, values: Array, steps: Array) -> None:
        """Begin every row's session with a given cache; raises Unsupported for a session that cannot."""
        self.sessions = [self.begin() for _ in steps]
        for i, session in enumerate(self.sessions):
            method_of(session, "preload")(keys[:, [i]], values[:, [i]], steps[[i]])

    def _ask(self, method: str, tokens: Array, lengths: Array, taps: Collection[str]) -> dict[str, Array]:
        rows = [
            method_of(session, method)(tokens[[i], :length], lengths[[i]], taps)
            for i, (session, length) in enumerate(zip(self.sessions, lengths, strict=True))
        ]
        return together(rows, tokens.shape[1], lengths.tolist())


def method_of(session: Any, name: str) -> Callable[..., Any]:
    """Return a session's method; raises Unsupported where it has none."""
    method: Callable[..., Any] | None = getattr(session, name, None)
    if method is None:
        raise Unsupported(f"no {name}")
    return method


def together(rows: Answers, num_positions: int, lengths: Sequence[int]) -> dict[str, Array]:
    """Return the taps of all rows as those of one batch, with 0 beyond each row's positions and cache slots."""
    return {tap: _stacked(tap, [row[tap] for row in rows], num_positions, lengths) for tap in rows[0]}


def _stacked(tap: str, parts: Sequence[Array], num_positions: int, lengths: Sequence[int]) -> Array:
    axes = SPECS[split_tap(tap)[1]].axes[: parts[0].ndim]
    shape = list(np.max([part.shape for part in parts], axis=0))
    if "t" in axes and [part.shape[axes.index("t")] for part in parts] == list(lengths):  # not the last position alone
        shape[axes.index("t")] = num_positions
    batch = np.zeros([len(parts), *shape[1:]], parts[0].dtype)
    for row, part in zip(batch, parts, strict=True):
        row[tuple(slice(size) for size in part.shape[1:])] = part[0]
    return batch
