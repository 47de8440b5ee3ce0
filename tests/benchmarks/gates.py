"""Limits on what an action takes: a multiple of a yardstick that took turns with it, or seconds.

What was measured and its limit are properties of the test that has the limit, kept whether it passes or not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest

NUM_ROUNDS = 5

Action = Callable[[], Any]
Record = Callable[[str, object], None]
"""pytest's `record_property`."""


def least_seconds(
    *actions: Action, num_rounds: int = NUM_ROUNDS, clock: Callable[[], float] = time.perf_counter
) -> list[float]:
    """Return the least time of every action over rounds in which they take turns, after one that does not count.

    The clock tells the time of the wall; `time.process_time` that of this process alone, however busy the machine is.
    """
    seconds: list[list[float]] = [[] for _ in actions]
    for number in range(num_rounds + 1):
        for action, times in zip(actions, seconds, strict=True):
            began = clock()
            result = action()
            if number:
                times.append(clock() - began)
            del result
    return [min(times) for times in seconds]


def assert_ratio(
    record: Record, action: Action, yardstick: Action, limit: float, *, num_rounds: int = NUM_ROUNDS
) -> None:
    """Raise AssertionError if an action takes more than `limit` times as long as its yardstick."""
    seconds, yardstick_seconds = least_seconds(action, yardstick, num_rounds=num_rounds)
    ratio = seconds / yardstick_seconds
    record("measured", f"{ratio:.2f} × {yardstick_seconds:.3f} s")
    record("limit", f"{limit:g} ×")
    assert ratio <= limit, f"{ratio:.2f} times its yardstick of {yardstick_seconds:.4f} s: {limit} at most"


def assert_seconds(record: Record, action: Action, limit: float) -> None:
    """Raise AssertionError if an action takes more than `limit` seconds."""
    (seconds,) = least_seconds(action)
    record("measured", f"{seconds:.2f} s")
    record("limit", f"{limit:g} s")
    assert seconds <= limit, f"{seconds:.2f} s: {limit} at most"


def cost_rows(reports: Iterable[pytest.TestReport]) -> list[tuple[str, str, str]]:
    """Return (what a test is named, what it measured, its limit) of every report that holds a measurement."""
    rows = []
    for report in reports:
        properties = dict(report.user_properties)
        if "measured" in properties:
            name = report.nodeid.rpartition("::")[2].removeprefix("test_").replace("_", " ")
            rows.append((name, str(properties["measured"]), str(properties.get("limit", "–"))))
    return rows
