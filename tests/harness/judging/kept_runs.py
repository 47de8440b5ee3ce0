"""A run that is kept as a baseline, and the runs after it."""

from __future__ import annotations

from dataclasses import replace

from grok_conformance.harness.judging.baseline import (
    History,
    Record,
)
from grok_conformance.harness.judging.regression import Regression, compare_runs

KEY = "unequal.bfloat16/prefill call0/layers.01.attention.key"
ROUTE = "unequal.bfloat16/prefill call0/layers.01.moe.expert_index"
OLD = Record(
    candidate="port",
    version="1",
    suite="1.0.0",
    digest="d",
    status="pass",
    platform={"cpu": "any"},
    operations={"attention.key bfloat16": "pass", "moe.expert_index bfloat16": "pass"},
    taps={KEY: "a", ROUTE: "b"},
    seconds={"one": 1.0, "two": 3.0},
    peak_bytes=2**30,
)


def taking(factor: float) -> Record:
    """Return the baseline's run in so many times its time."""
    return replace(OLD, seconds={case: factor * seconds for case, seconds in OLD.seconds.items()})


def history_of(*factors: float) -> History:
    """Return the history of runs in so many times the time of the baseline, each compared with it."""
    history: History = ()
    for factor in factors:
        history = compare_runs(OLD, taking(factor), history, "2026-01-01").history
    return history


STEADY = history_of(1.0, 1.025, 0.975)


def against(new: Record, earlier: History = STEADY, old: Record = OLD) -> Regression:
    """Return what a run is said to have changed against the baseline, a day after."""
    return compare_runs(old, new, earlier, "2026-01-02")
