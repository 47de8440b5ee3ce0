"""Measures and writes the record of the noise model that the golden set carries (`golden/README.md`, noise.json).

`python -m tests.fault_detection.noise_record` judges every honest variant once and replaces the record whole.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import torch

from grok_conformance.harness.cases.case import steps_before
from grok_conformance.harness.checks.evidence import Evidence, gather
from grok_conformance.harness.checks.operation_by_operation import fence_of_copy
from grok_conformance.harness.contract import GOLDEN_DIR, Array, CandidateInfo, split_tap, tap_specs
from grok_conformance.harness.golden.noise_record import FORMAT, STATISTICS, parameters
from grok_conformance.harness.golden.provenance import record_platform, record_toolchain
from grok_conformance.harness.golden.writing import replace_record
from grok_conformance.harness.graph.arithmetic import SMALLEST_NORMAL, UNIT_ROUNDOFF
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.oracle import walk
from grok_conformance.harness.graph.row import Exact
from grok_conformance.harness.measure.noise import ACCUMULATION_ROUNDOFF, Fence, fence_of, margin, tail_factor
from tests.fault_detection import honest_runs
from tests.fault_detection.honest_runs import DTYPES, HonestRates, Suite
from tests.fault_detection.honest_suites import NUM_CASES
from tests.fault_detection.honest_variants import VARIANTS
from tests.harness.honest_port import exact_weights, golden_case, golden_taps

EXAMPLES = ("unequal/prefill/padded_batch", "dense/decode/dense_block")
"""The cases at whose golden values the fences are told: they have every operation."""

NUM_ELEMENTS = 10**6
"""The size of a run whose λ these fences have."""

NUM_ARGUMENTS = 2**18

FUNCTIONS: Mapping[str, tuple[str, float, float]] = {
    "exp": ("attention.weights", -80, 0),
    "tanh": ("attention.logits", -12, 12),
    "rsqrt": ("attention.norm", 1e-5, 1e4),
    "cos": ("attention.query_rotated", 0, 8192),
    "sin": ("attention.query_rotated", 0, 8192),
}
"""Every library function: the operation that needs it, and the lowest and highest argument that is tried."""

Function = Callable[[Array], Array]


def of_torch(name: str) -> Function:
    """Return a function of torch, of arrays."""
    function = getattr(torch, name)
    return lambda x: function(torch.from_numpy(x)).numpy()


def of_jax(name: str) -> Function:
    """Return a function of JAX, compiled, of arrays."""
    function = jax.jit(getattr(jax.lax, name))
    return lambda x: np.asarray(function(x))


IN_NUMPY: Mapping[str, Function] = {
    "exp": np.exp, "tanh": np.tanh, "rsqrt": lambda x: 1 / np.sqrt(x), "cos": np.cos, "sin": np.sin,
}  # fmt: skip
ENGINES: Mapping[str, Mapping[str, Function]] = {
    "jax": {name: of_jax(name) for name in FUNCTIONS},
    "numpy": IN_NUMPY,
    "torch": {name: of_torch(name) for name in FUNCTIONS},
}
"""Library functions of float32 arrays; NumPy's give the exact values of float64 ones too."""


def record(rates: HonestRates) -> dict[str, Any]:
    """Return the record of the noise model, given what honest runs have shown."""
    return {
        "format": FORMAT,
        "parameters": parameters(),
        "fences": fences(),
        "functions": functions(),
        "flushes_subnormals": {engine: flushes_subnormals(engine) for engine in ENGINES},
        "validation": validation(rates),
        "toolchain": record_toolchain("torch"),
        "platform": record_platform(),
    }


def fences() -> dict[str, dict[str, str]]:
    """Return the fence of every operation's median element by compute dtype, in units of u(recorded) · |value|."""
    units: dict[str, dict[str, list[Array]]] = {}
    for dtype in DTYPES:
        for operation, recorded, exact, fence, mask in fenced(dtype):
            found = units.setdefault(operation, {}).setdefault(dtype, [])
            found.append(fence.allowed[mask] / (UNIT_ROUNDOFF[recorded] * np.abs(exact.value[mask])))
    return {
        operation: {dtype: f"{np.median(np.concatenate(found)):.3g}" for dtype, found in sorted(by_dtype.items())}
        for operation, by_dtype in units.items()
    }


def fenced(dtype: str) -> Iterator[tuple[str, str, Exact, Fence, Array]]:
    """Yield (operation, recorded dtype, exact result, fence, mask) of every tap of the examples but chosen experts.

    The mask, of the shape of the tap, is set where values are compared that are not 0.
    """
    for name in (f"{example}.{dtype}" for example in EXAMPLES):
        preset, case = golden_case(name)
        evidence = gather(preset, case, CandidateInfo(name="golden", version="", taps=("*",)), golden_taps(name))
        weights = exact_weights(preset.name, dtype)
        for call, tap, exact, _ in walk(preset, case, shown_by(evidence), weights=weights, margin=margin(NUM_ELEMENTS)):
            operation, recorded = split_tap(tap)[1], evidence.observed[call, tap].recorded
            if operation == "moe.expert_index":
                continue
            fence = fence_of(exact, recorded, tail_factor(NUM_ELEMENTS))
            if operation in GROK_1.copies:
                fence = fence_of_copy(exact, fence, recorded, steps_before(case, call), evidence.config)
            mask = np.broadcast_to(evidence.masks[call, operation], exact.value.shape) & (exact.value != 0)
            yield operation, recorded, exact, fence, mask


def shown_by(evidence: Evidence) -> Callable[[int, str], Array | None]:
    """Return a function that gives every tap of a case as it was shown."""
    return lambda call, tap: evidence.observed[call, tap].cleaned


def functions() -> dict[str, dict[str, Any]]:
    """Return the largest error of every library function in every engine, and what the fence of its operation leaves.

    In units of u(float32) · |value|. What is left is the least that elementwise roundings may add in the examples.
    """
    random = np.random.default_rng(0)
    least = least_bounds()
    found = {}
    for name, (operation, lowest, highest) in FUNCTIONS.items():
        x = random.uniform(lowest, highest, NUM_ARGUMENTS).astype(np.float32)
        exact = IN_NUMPY[name](x.astype(np.float64))
        found[name] = {
            "operation": operation,
            "allowed": f"{least[operation]:.3g}",
            "measured": {engine: f"{units_of(by_name[name](x), exact):.3g}" for engine, by_name in ENGINES.items()},
        }
    return found


def units_of(observed: Array, exact: Array) -> float:
    """Return the largest error in units of u(float32) · |value|, results below the normal numbers apart."""
    error = np.abs(observed.astype(np.float64) - exact)
    return float((error / (ACCUMULATION_ROUNDOFF * np.abs(exact) + SMALLEST_NORMAL["float32"])).max())


def least_bounds() -> dict[str, float]:
    """Return the least bound on the elementwise roundings of every operation, in units of u(float32) · |value|."""
    least: dict[str, float] = {}
    for operation, _, exact, _, mask in fenced("float32"):
        bound = np.broadcast_to(exact.bound, exact.value.shape)[mask] / np.abs(exact.value[mask])
        least[operation] = min(least.get(operation, np.inf), float(bound.min()))
    return least


def flushes_subnormals(engine: str) -> bool:
    """Return whether an engine takes the square root of a subnormal number for that of 0."""
    subnormal = np.full(1, SMALLEST_NORMAL["float32"] / 2, np.float32)
    return bool(np.isinf(ENGINES[engine]["rsqrt"](subnormal)).any())


def validation(rates: HonestRates) -> dict[str, Any]:
    """Return how many honest runs there were of each compute dtype, and the worst that they showed."""
    worst = {(one.operation, one.fprop_dtype, one.statistic): one for one in rates.extremes}
    num_runs = {dtype: sum(x.num_runs for x in rates.by_case if x.fprop_dtype == dtype) for dtype in sorted(DTYPES)}
    return {
        "num_runs": num_runs,
        "num_failed": rates.num_run_alarms,
        "num_excused_flips": rates.num_excused_flips,
        "variants": list(rates.variants),
        "worst": {
            operation: {
                dtype: {
                    statistic: {"ratio": str(one.ratio), "variant": one.variant}
                    for statistic in STATISTICS
                    for one in [worst[operation, dtype, statistic]]
                }
                for dtype in sorted(DTYPES)
            }
            for operation in (spec.operation for spec in tap_specs())
        },
    }


def main() -> int:
    """Measure and write the record, and return 0; one that does not vouch for the model is not written."""
    parser = argparse.ArgumentParser(prog="python -m tests.fault_detection.noise_record", description=__doc__)
    once = sum(len(Suite(name, 0).presets) for name in VARIANTS) * len(DTYPES) * NUM_CASES
    parser.add_argument("--runs", type=int, default=once, metavar="N", help=f"at least so many runs (default: {once})")
    parser.add_argument("--golden", type=Path, default=GOLDEN_DIR / "v1", metavar="DIR", help="the golden set")
    options = parser.parse_args()
    rates = honest_runs.measure(options.runs, parallel=True)
    sys.stdout.writelines(f"{line}\n" for line in honest_runs.lines_of(rates))
    replace_record(options.golden, record(rates))
    return 0


if __name__ == "__main__":
    sys.exit(main())
