"""Where a tap map finds a tensor: under a name that the engine gives it, or made of several by an operator.

    total("model.layers.{layer}[0]", "model.layers.{layer}[1]")         a layer that returns hidden state and residual
    part("layers.{layer}.qkv", ("q h", "g h", "g h"), 0)                the queries of a fused projection
    shards("rank{rank}.layers.{layer}.q", ranks=2)                      two ranks of tensor parallelism, end to end
    ragged("layers.{layer}.hidden", "cu_seqlens")                       rows laid one after the other, without padding

Operators may be put into one another: `ragged(part("qkv{layer}", …), "cu_seqlens")`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grok_conformance.harness.contract.configuration import LanguageModelConfig

Array = Any
"""A NumPy array; NumPy itself is imported where it is used, so that lists and help start at once."""


class NotRecordedError(Exception):
    """Raised where the engine did not record a tensor; the map then leaves its tap out."""


@dataclass(frozen=True)
class Recorded:
    """What an engine recorded in one call, {its own name: array}, and what the names and axes stand for."""

    tensors: Mapping[str, Array]
    sizes: Mapping[str, int]
    names: Mapping[str, int | None]

    def read(self, source: Source) -> Array:
        """Return a source's tensor; raises NotRecordedError, and ValueError for one that does not fit its operator."""
        if callable(source):
            return source(self)
        name = source.format(**self.names)
        if name not in self.tensors:
            raise NotRecordedError(name)
        return self.tensors[name]


Source = str | Callable[[Recorded], Array]
"""The engine's name for a tensor, `{layer}` and `{rank}` standing for indices, or an operator on such names."""


def sizes_of(config: LanguageModelConfig, shape: tuple[int, int]) -> dict[str, int]:
    """Return the size of every axis in a call on tokens [b, t]; p and j are the two halves and the width of one."""
    return {**config.axis_sizes, "b": shape[0], "t": shape[1], "p": 2, "j": config.model.key_size // 2}


def total(*sources: Source) -> Source:
    """Return the sum of several tensors: two streams of a layer, or the partial sums of row-parallel ranks."""
    return lambda recorded: sum(recorded.read(source) for source in sources[1:]) + recorded.read(sources[0])


def part(source: Source, parts: Sequence[str], index: int, axis: int = -1) -> Source:
    """Return one part of an axis that holds several; `parts` are their sizes in axis letters, as `("q h", "g h")`.

    On one rank of several each part is as much smaller: only the ratio of the sizes counts.
    """

    def read(recorded: Recorded) -> Array:
        x = recorded.read(source)
        weights = [math.prod(recorded.sizes[letter] for letter in letters.split()) for letters in parts]
        unit, rest = divmod(x.shape[axis], sum(weights) // math.gcd(*weights))
        if rest:
            raise ValueError(f"an axis of {x.shape[axis]} does not hold {' + '.join(parts)}, which are {weights}")
        ends = [unit * end // math.gcd(*weights) for end in itertools.accumulate(weights, initial=0)]
        return x.take(range(ends[index], ends[index + 1]), axis=axis)

    return read


def shards(source: Source, ranks: int, axis: int = -1) -> Source:
    """Return what all ranks hold of one axis, end to end; `{rank}` in the names stands for the rank."""

    def read(recorded: Recorded) -> Array:
        import numpy as np  # noqa: PLC0415 - see Array

        own = (replace(recorded, names={**recorded.names, "rank": rank}) for rank in range(ranks))
        return np.concatenate([each.read(source) for each in own], axis=axis)

    return read


def ragged(source: Source, offsets: Source) -> Source:
    """Return rows that lie one after the other, [n, …], on the axes [b, t, …], padded with 0.

    `offsets` int [b + 1] are where each row begins and the last one ends, as `cu_seqlens` of variable-length attention.
    """

    def read(recorded: Recorded) -> Array:
        import numpy as np  # noqa: PLC0415 - see Array

        x, ends = recorded.read(source), recorded.read(offsets).astype(np.int64)
        b, t = recorded.sizes["b"], recorded.sizes["t"]
        lengths = np.diff(ends)
        if ends.shape != (b + 1,) or ends[0] != 0 or ends[-1] != len(x) or lengths.min() < 0 or lengths.max() > t:
            raise ValueError(f"offsets {ends.tolist()} do not lay {len(x)} tokens on [b, t] = {[b, t]}")
        rows = np.zeros((b, t, *x.shape[1:]), x.dtype)
        rows[np.arange(t) < lengths[:, None]] = x
        return rows

    return read


def paged(source: Source, table: Source) -> Source:
    """Return a cache kept in pages, [page, slot, …], by row: [b, s, …].

    `table` int [b, pages] names each row's pages in the order of their positions; a negative one is not in use.
    """

    def read(recorded: Recorded) -> Array:
        pages, used = recorded.read(source), recorded.read(table)
        rows = pages[used.clip(min=0)]  # [b, pages, slot, …]
        return rows.reshape(len(used), -1, *pages.shape[2:])

    return read
