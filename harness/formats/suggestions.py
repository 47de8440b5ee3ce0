"""Names that nothing has: the one line that says so, with what the reader may have meant."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from difflib import SequenceMatcher

MAX_SHOWN = 3
"""Names that a message shows of many."""

MAX_NAME = 200
"""Characters of an unknown name that are shown and looked for."""

ALIKE = 0.6
"""The likeness, 0 to 1, from which a name may be the one that was meant."""


def unknown(kind: str, name: str, known: Collection[str]) -> str:
    """Return `no KIND 'NAME'`, with the names nearest to it, or the first few where none is near."""
    name, known = name[:MAX_NAME], set(known)
    near = heapq.nlargest(MAX_SHOWN, (other for other in sorted(known) if likeness(name, other) >= ALIKE),
                          key=lambda other: likeness(name, other))  # fmt: skip
    if near:
        return f"no {kind} {name!a}; did you mean {' or '.join(near)}?"
    if len(known) <= 2 * MAX_SHOWN:
        return f"no {kind} {name!a}; there are {', '.join(sorted(known)) or 'none'}"
    return f"no {kind} {name!a}; there are {len(known)}, such as {', '.join(sorted(known)[:MAX_SHOWN])}"


def likeness(name: str, other: str) -> float:
    """Return how alike two names are, 0 to 1; one that is only begun is like all of it."""
    return max(SequenceMatcher(None, name, text).ratio() for text in (other, other[: len(name)]))
