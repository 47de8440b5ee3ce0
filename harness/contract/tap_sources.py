"""Where a tap map finds a tensor: under a name that the engine gives it, or made of several by an operator.

    total("model.layers.{layer}[0]", "model.layers.{layer}[1]")         a layer that returns hidden state and residual
    part("layers.{layer}.qkv", ("q h", "g h", "g h"), 0)                the queries of a fused projection
    shards("rank{rank}.layers.{layer}.q", ranks=2)                      two ranks of tensor parallelism, end to end
    ragged("layers.{layer}.hidden", "cu_seqlens")                       rows laid one after the other, without padding

Operators may be put into one another: `ragged(part("qkv{layer}", …), "cu_seqlens")`.
"""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from grok_conformance.harness.contract.configuration import LanguageModelConfig

Array = Any
"""A NumPy array; NumPy itself is imported where it is used, so that lists and help start at once."""


class NotRecordedError(Exception):
    """Raised where the engine did not record a tensor; the map then leaves its tap out."""


@dataclass(frozen=True)
class Operator:
    """A tensor made of others: where those are found, and `function(tensors, sizes of the axes)`.

    The function raises ValueError for tensors that do not fit.
    """

    sources: tuple[Source, ...]
    function: Callable[[Sequence[Array], Mapping[str, int]], Array]


Source = str | Operator
"""The engine's name for a tensor, `{layer}` standing for the index, or an operator on such names."""


def read(source: Source, tensors: Mapping[str, Array], sizes: Mapping[str, int], layer: int | None) -> Array:
    """Return a source's tensor of a layer from {the engine's name: tensor}; raises NotRecordedError and ValueError."""
    if isinstance(source, Operator):
        return source.function([read(each, tensors, sizes, layer) for each in source.sources], sizes)
    name = name_of(source, layer)
    if name not in tensors:
        raise NotRecordedError(name)
    return array_of(name, tensors[name])


def name_of(source: str, layer: int | None) -> str:
    """Return the engine's name of a layer's tensor; raises ValueError where it has another word in braces."""
    try:
        return source.format(layer=layer)
    except (IndexError, KeyError, ValueError):
        raise ValueError(f"{source!r}: in a name {{layer}} alone stands for something") from None


def array_of(name: str, value: Any) -> Array:
    """Return what an engine recorded as an array, a torch tensor as well; raises ValueError for what is none."""
    if type(value).__module__.partition(".")[0] == "torch":
        from grok_conformance.harness.contract.attach import to_numpy  # noqa: PLC0415 - imports torch, which is there

        return to_numpy(value)
    if not hasattr(value, "shape"):
        raise ValueError(f"{name}: {type(value).__name__} is no array: record a NumPy array or a tensor")
    return value


def names_of(source: Source) -> tuple[str, ...]:
    """Return the engine's names that a source reads."""
    return sum(map(names_of, source.sources), ()) if isinstance(source, Operator) else (source,)


def sizes_of(config: LanguageModelConfig, shape: tuple[int, int]) -> dict[str, int]:
    """Return the size of every axis in a call on tokens [b, t]; p and j are the two halves and the width of one."""
    return {**config.axis_sizes, "b": shape[0], "t": shape[1], "p": 2, "j": config.model.key_size // 2}


def total(*sources: Source) -> Operator:
    """Return the sum of several tensors: two streams of a layer, or the partial sums of row-parallel ranks."""
    return Operator(sources, lambda tensors, _sizes: functools.reduce(operator.add, tensors))


def part(source: Source, parts: Sequence[str], index: int, axis: int = -1) -> Operator:
    """Return one part of an axis that holds several; `parts` are their sizes in axis letters, as `("q h", "g h")`.

    On one rank of several each part is as much smaller: only the ratio of the sizes counts.
    """

    def take(tensors: Sequence[Array], sizes: Mapping[str, int]) -> Array:
        (x,) = tensors
        weights = [math.prod(sizes[letter] for letter in letters.split()) for letters in parts]
        divisor = math.gcd(*weights)
        unit, rest = divmod(x.shape[axis], sum(weights) // divisor)
        if rest:
            raise ValueError(f"an axis of {x.shape[axis]} does not hold {' + '.join(parts)}, which are {weights}")
        ends = [unit * end // divisor for end in itertools.accumulate(weights, initial=0)]
        return x.take(range(ends[index], ends[index + 1]), axis=axis)

    return Operator((source,), take)


def shards(source: Source, ranks: int, axis: int = -1) -> Operator:
    """Return what all ranks hold of one axis, end to end; `{rank}` in the names stands for the rank."""

    def concatenate(tensors: Sequence[Array], _sizes: Mapping[str, int]) -> Array:
        import numpy as np  # noqa: PLC0415 - see Array

        return np.concatenate(tensors, axis=axis)

    return Operator(tuple(at_rank(source, rank) for rank in range(ranks)), concatenate)


def at_rank(source: Source, rank: int) -> Source:
    """Return a source with the rank filled in."""
    if isinstance(source, Operator):
        return replace(source, sources=tuple(at_rank(each, rank) for each in source.sources))
    return source.replace("{rank}", str(rank))


def ragged(source: Source, offsets: Source) -> Operator:
    """Return rows that lie one after the other, [n, …], on the axes [b, t, …], padded with 0.

    `offsets` int [b + 1] are where each row begins and the last one ends, as `cu_seqlens` of variable-length attention.
    """

    def lay_out(tensors: Sequence[Array], sizes: Mapping[str, int]) -> Array:
        import numpy as np  # noqa: PLC0415 - see Array

        x, ends = tensors[0], tensors[1].astype(np.int64)
        b, t = sizes["b"], sizes["t"]
        lengths = np.diff(ends)
        if ends.shape != (b + 1,) or ends[0] != 0 or ends[-1] != len(x) or lengths.min() < 0 or lengths.max() > t:
            raise ValueError(f"offsets {ends.tolist()} do not lay {len(x)} tokens on [b, t] = {[b, t]}")
        rows = np.zeros((b, t, *x.shape[1:]), x.dtype)
        rows[np.arange(t) < lengths[:, None]] = x
        return rows

    return Operator((source, offsets), lay_out)


def paged(source: Source, table: Source) -> Operator:
    """Return a cache kept in pages, [page, slot, …], by row: [b, s, …].

    `table` int [b, pages] names each row's pages in the order of their positions; a negative one is not in use.
    """

    def lay_out(tensors: Sequence[Array], _sizes: Mapping[str, int]) -> Array:
        pages, used = tensors
        rows = pages[used.clip(min=0)]  # [b, pages, slot, …]
        return rows.reshape(len(used), -1, *pages.shape[2:])

    return Operator((source, table), lay_out)
