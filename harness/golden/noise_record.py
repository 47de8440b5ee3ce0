"""The record of the noise model that a golden set carries: what is allowed, and how far honest runs were found to go.

Its parameters are those of `measure.noise`, so that they can be read without reading code; a set that says otherwise is
refused. `python -m tests.fault_detection.noise_record` measures the rest (golden/README.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF
from grok_conformance.harness.measure import noise

FORMAT = 1
MIN_RUNS = 64
"""Honest runs of each compute dtype that it takes to validate the model."""

STATISTICS = ("tail", "bulk", "systematic", "pooled", "end_to_end")
RECORDED = ("bfloat16", "float16", "float32")
SIZES = (10**3, 10**6, 10**9)
"""Numbers of elements of a run for which λ is told."""


def parameters() -> dict[str, Any]:
    """Return every parameter of the noise model; real numbers are strings, as in all JSON of a golden set."""
    return {
        "false_alarm_rate": str(noise.FALSE_ALARM_RATE),
        "tail_factor": {str(size): f"{noise.tail_factor(size):.6g}" for size in SIZES},
        "bulk_deviations": str(noise.BULK_DEVIATIONS),
        "end_to_end_safety": str(noise.SAFETY),
        "num_runs": noise.NUM_RUNS,
        "num_deviating_runs": noise.NUM_DEVIATING_RUNS,
        "num_simulations": noise.NUM_SIMULATIONS,
        "flip_alarm_rate": str(noise.FLIP_ALARM_RATE),
        "flip_model_factor": str(noise.MODEL_FACTOR),
        "accumulation_roundoff": str(noise.ACCUMULATION_ROUNDOFF),
        "unit_roundoff": {dtype: str(UNIT_ROUNDOFF[dtype]) for dtype in RECORDED},
        "smallest_normal": {dtype: str(SMALLEST_NORMAL[dtype]) for dtype in RECORDED},
    }


def record_problems(record: Mapping[str, Any]) -> list[str]:
    """Return why a record that fits its schema does not vouch for this harness: other parameters, no validation."""
    return [*_parameter_problems(record["parameters"]), *_floor_problems(record), *_validation_problems(record)]


def _parameter_problems(found: Mapping[str, Any]) -> Iterator[str]:
    for name, expected in parameters().items():
        if found[name] != expected:
            yield f"parameter {name} is {found[name]!a}, this harness has {expected!a}"


def _floor_problems(record: Mapping[str, Any]) -> Iterator[str]:
    for name, function in record["functions"].items():
        for engine, error in function["measured"].items():
            if not float(error) <= float(function["allowed"]):
                yield f"float32 {name} of {engine!a} errs by {error} u, {function['allowed']} are allowed"


def _validation_problems(record: Mapping[str, Any]) -> Iterator[str]:
    validation = record["validation"]
    for dtype, num_runs in validation["num_runs"].items():
        if num_runs < MIN_RUNS:
            yield f"{num_runs} honest runs in {dtype}, expected at least {MIN_RUNS}"
    if validation["num_failed"]:
        yield f"{validation['num_failed']} honest runs failed, expected none"
    operations = [spec.operation for spec in tap_specs()]
    yield from (f"operation {each} was not validated" for each in operations if each not in validation["worst"])
    yield from (f"operation {each!a} is none of taps.json" for each in validation["worst"] if each not in operations)
    for operation, by_dtype in validation["worst"].items():
        for dtype, by_statistic in by_dtype.items():
            for statistic, worst in by_statistic.items():
                if not float(worst["ratio"]) < 1:
                    where = f"{statistic} of {operation} in {dtype}"
                    yield f"honest runs reach {worst['ratio']} times what is allowed: {where}, {worst['variant']!a}"
