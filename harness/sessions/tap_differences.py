"""How two tap files differ, element by element."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from grok_conformance.harness.contract import Array, split_tap, tap_specs
from grok_conformance.harness.graph.arithmetic import UNIT_ROUNDOFF
from grok_conformance.harness.measure.comparison import widen


@dataclass(frozen=True)
class TapDifference:
    """How one tap differs between two files.

    `roundings` is the largest difference in units of one rounding of the narrower dtype at its magnitude, infinite of
    integers, which nothing rounds; `relative` the root mean square of the differences over that of the expected values;
    `problem` says what no number can.
    """

    tap: str
    num_elements: int = 0
    num_changed: int = 0
    largest: float = 0.0
    roundings: float = 0.0
    relative: float = 0.0
    index: tuple[int, ...] = ()
    problem: str = ""


def tap_differences(expected: Mapping[str, Array], observed: Mapping[str, Array]) -> list[TapDifference]:
    """Return the differences of two files, tap by tap in the order of the forward pass."""
    specs = tap_specs()
    order = {spec.operation: i for i, spec in enumerate(specs)}
    last_layered = max(i for i, spec in enumerate(specs) if spec.per_layer)

    def place(key: str) -> tuple[str, int, int, str]:
        call, _, tap = key.rpartition("/")
        layer, operation = split_tap(tap)
        position = order.get(operation, -1)
        stage = layer if layer is not None else (10**6 if position > last_layered else -1)
        return call, stage, position, key

    return [
        tap_difference(key, expected.get(key), observed.get(key)) for key in sorted({*expected, *observed}, key=place)
    ]


def tap_difference(tap: str, expected: Array | None, observed: Array | None) -> TapDifference:
    """Return how one tap differs; None stands for one that is not there."""
    if expected is None or observed is None:
        return TapDifference(tap, problem="only in OBSERVED" if expected is None else "missing in OBSERVED")
    if expected.shape != observed.shape:
        return TapDifference(tap, problem=f"shape {list(observed.shape)}, expected {list(expected.shape)}")
    a, b = widen(expected), widen(observed)
    if np.array_equal(a, b, equal_nan=True):
        return TapDifference(tap, a.size)
    if (finite := np.isfinite(a) & np.isfinite(b)).sum() < a.size:
        odd = ~finite & ~((a == b) | (np.isnan(a) & np.isnan(b)))
        if odd.any():
            return TapDifference(tap, a.size, problem=f"{int(odd.sum())} of {a.size} values are not finite in one file")
    error = np.where(finite, np.abs(a - b), 0.0)
    unit = max(UNIT_ROUNDOFF.get(str(x.dtype), UNIT_ROUNDOFF["float32"]) for x in (expected, observed))
    magnitude = np.maximum(np.where(finite, np.abs(a), 0.0), np.where(finite, np.abs(b), 0.0))
    roundings = np.divide(error, unit * magnitude, out=np.where(error > 0, np.inf, 0.0), where=unit * magnitude > 0)
    norm = math.sqrt(float(np.square(np.where(finite, a, 0.0)).mean()))
    index = np.unravel_index(int(roundings.argmax()), roundings.shape)
    return TapDifference(
        tap,
        a.size,
        int((error > 0).sum()),
        float(error.max()),
        float(roundings.max()),
        math.sqrt(float(np.square(error).mean())) / norm if norm else math.inf,
        tuple(int(i) for i in index),
    )
