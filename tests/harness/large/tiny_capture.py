"""A capture of a few small stages without an engine behind it."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import DTYPES, Array, split_tap
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.large.canonical import Stage
from grok_conformance.harness.large.plan import Plan, make_calls

CONFIG = replace(UNEQUAL, sequence_len=5, model=replace(UNEQUAL.model, num_layers=3))
TOKENS = np.array([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]], np.int32)


def make_plan(**changes: Any) -> Plan:
    fields = {
        "name": "tiny",
        "config": CONFIG,
        "weights": "0" * 64,
        "num_layers": 3,
        "calls": make_calls(TOKENS, 1),
        "form": "full",
        "rows": (0, 2),
        "seed": 0,
    }
    return Plan(**{**fields, **changes})


def taps_of(plan: Plan, stage: str, call: int) -> dict[str, Array]:
    """Return random taps of a stage in the shapes and dtypes of the contract."""
    recorded = GROK_1.recorded_dtypes(plan.config, {})
    b, t = plan.calls[call].tokens.shape
    sizes = {**plan.config.axis_sizes, "b": b, "t": t}
    made = {}
    for tap in plan.taps(stage):
        operation = split_tap(tap)[1]
        random = np.random.default_rng(zlib.crc32(f"{call}/{tap}".encode()))
        shape = [sizes[axis] for axis in SPECS[operation].axes]
        made[tap] = (4 * random.standard_normal(shape)).astype(DTYPES[recorded[operation]])
    return made


def run(plan: Plan, _checkpoint: Path, first_stage: int, carried: Sequence[Array]) -> Iterator[Stage]:
    """Stand in for `harness.large.canonical.run`: each stage counts the carried streams up, from what it was given."""
    streams = list(carried) or [np.zeros((2, call.tokens.shape[1], 40), DTYPES["bfloat16"]) for call in plan.calls]
    for stage in plan.stages[first_stage:]:
        streams = [(x + 1).astype(x.dtype) for x in streams]
        taps = [taps_of(plan, stage, call) for call in range(len(plan.calls))]
        if stage.startswith("layers"):
            for call, made in enumerate(taps):
                made[f"{stage}.output"] = streams[call]
        yield Stage(tuple(taps), tuple(streams))
