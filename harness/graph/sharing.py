"""How a length is shared out among parts: the ranks of a product, the splits of a sum, the chunks of a ring."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence

from grok_conformance.harness.graph.rounding import EVENLY, IN_GROUPS, NEAREST, SPREAD

Sharing = Callable[[int, int], list[slice]]
"""Shares a length out in so many parts; those that are empty are left out."""


def in_tiles(length: int, num_parts: int) -> list[slice]:
    """Share a length out in equal tiles, the last of which may be shorter."""
    return parts_between([min(length, -(-length // num_parts) * i) for i in range(num_parts + 1)])


def in_blocks(size: int) -> Sharing:
    """Return a sharing in which every part has as many whole blocks of one size, but for the last."""

    def share_out(length: int, num_parts: int) -> list[slice]:
        blocks = in_tiles(-(-length // size), num_parts)
        return parts_between([0, *(min(length, part.stop * size) for part in blocks)])

    return share_out


def in_groups(size: int) -> Sharing:
    """Return a sharing of whole groups of one size, no part with two more than another; of rows where there is none."""

    def share_out(length: int, num_parts: int) -> list[slice]:
        unit = max(size, 1)
        groups = evenly(-(-length // unit), num_parts)
        return parts_between([0, *(min(length, part.stop * unit) for part in groups)])

    return share_out


def shared_as(words: str, block: int, group_size: int) -> Sharing:
    """Return the sharing that the end of a choice asks for: by name, in blocks of a size, or in groups of a scale."""
    if words == IN_GROUPS:
        return in_groups(group_size)
    return in_blocks(block) if block else SHARINGS[words]


def evenly(length: int, num_parts: int) -> list[slice]:
    """Share a length out so that no two parts differ by more than one, the longer ones first."""
    return parts_between([i * (length // num_parts) + min(i, length % num_parts) for i in range(num_parts + 1)])


def spread(length: int, num_parts: int) -> list[slice]:
    """Share a length out by cutting it at ⌊i · length / n⌋."""
    return parts_between([i * length // num_parts for i in range(num_parts + 1)])


def to_the_nearest(length: int, num_parts: int) -> list[slice]:
    """Share a length out by cutting it at the whole number nearest to i · length / n, the even one of two."""
    return parts_between([round(i * length / num_parts) for i in range(num_parts + 1)])


SHARINGS: Mapping[str, Sharing] = {"": in_tiles, EVENLY: evenly, SPREAD: spread, NEAREST: to_the_nearest}
"""How a length is shared out, by how the name of a choice ends."""


def parts_between(ends: Sequence[int]) -> list[slice]:
    """Return the parts of a length between some ends, without empty ones."""
    return [slice(first, last) for first, last in itertools.pairwise(ends) if last > first]
