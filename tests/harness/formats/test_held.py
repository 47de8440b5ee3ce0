from __future__ import annotations

import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.held import Held


def asked(held: Held, names: str, num_bytes: int = 10) -> list[str]:
    """Ask for arrays by name in turn, and return which had to be made."""
    made: list[str] = []

    def make(name: str) -> Array:
        made.append(name)
        return np.zeros(num_bytes, np.uint8)

    for name in names:
        held.get(name, lambda name=name: make(name))  # type: ignore[misc] # a name of each turn
    return made


def test_what_fits_is_made_once() -> None:
    assert asked(Held(30), "abcabc") == ["a", "b", "c"]


def test_what_was_asked_for_longest_ago_gives_way() -> None:
    assert asked(Held(20), "abacab") == ["a", "b", "c", "b"]


def test_memory_stays_within_its_limit_however_much_is_asked_for() -> None:
    held = Held(35)
    asked(held, "abcdefghij")
    assert held.num_bytes == sum(x.nbytes for x in held.arrays.values()) == 30


def test_what_is_larger_than_all_room_is_made_and_not_held() -> None:
    held = Held(5)
    assert asked(held, "aa") == ["a", "a"]
    assert (held.num_bytes, len(held.arrays)) == (0, 0)
