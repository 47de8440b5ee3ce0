"""Limits on what an action takes: a multiple of a yardstick that took turns with it, or seconds."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

NUM_ROUNDS = 5

Action = Callable[[], Any]


def least_seconds(*actions: Action, num_rounds: int = NUM_ROUNDS) -> list[float]:
    """Return the least time of every action over rounds in which they take turns, after one that does not count."""
    seconds: list[list[float]] = [[] for _ in actions]
    for number in range(num_rounds + 1):
        for action, times in zip(actions, seconds, strict=True):
            began = time.perf_counter()
            result = action()
            if number:
                times.append(time.perf_counter() - began)
            del result
    return [min(times) for times in seconds]


def assert_ratio(action: Action, yardstick: Action, limit: float, *, num_rounds: int = NUM_ROUNDS) -> None:
    """Raise AssertionError if an action takes more than `limit` times as long as its yardstick."""
    seconds, yardstick_seconds = least_seconds(action, yardstick, num_rounds=num_rounds)
    ratio = seconds / yardstick_seconds
    assert ratio <= limit, f"{ratio:.2f} times its yardstick of {yardstick_seconds:.4f} s: {limit} at most"


def assert_seconds(action: Action, limit: float) -> None:
    """Raise AssertionError if an action takes more than `limit` seconds."""
    (seconds,) = least_seconds(action)
    assert seconds <= limit, f"{seconds:.2f} s: {limit} at most"
