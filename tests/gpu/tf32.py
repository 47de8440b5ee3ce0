"""Ports that allow TF32 must fail, and do so in float32: `python -m tests.gpu.tf32 --folder DIR`.

A step of `tests.gpu.session`. First each engine multiplies float32 matrices with TF32 allowed and without, against
float64: where that makes no difference TF32 was never in effect, and nothing is shown. Then both ports run with it
allowed. On the CPU their operands are rounded to TF32 instead: that the harness sees this is then known, and that a
GPU does it is not.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch

from grok_conformance.candidates.torch_eager.parameters import device_here
from tests.gpu.conformance import at_once, failing, judge
from tests.gpu.results import write_figures
from tests.gpu.steps import NOT_SHOWN

PORTS = ("tf32_torch", "tf32_jax")
CASES = "unequal/prefill/*"

SIZES = ((16, 40, 40), (64, 1024, 1024))
"""Rows, inner and outer width of the matrices: those of the golden presets, and larger ones."""

IN_EFFECT = 2.0**-14
"""A relative error of a float32 product that only operands of fewer bits have; theirs is about 2^-12."""


def main() -> int:
    """Run both; exit status 0 if TF32 was in effect and both ports failed, 3 if it was not."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.tf32", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    folder = parser.parse_args().folder
    errors = dict(measured_errors())
    figures: dict[str, Any] = {
        f"relative error of a product, {engine}, {size}": f"{allowed:.2g} with TF32 allowed, {refused:.2g} without"
        for (engine, size), (allowed, refused) in errors.items()
    }
    paths = [Path(__file__).with_name(f"{port}.py") for port in PORTS]
    judged = at_once(lambda path: judge(str(path), folder / f"{path.stem}.json", CASES, "float32"), paths)
    refused = []
    for port, (status, candidate) in zip(PORTS, judged, strict=True):
        found = failing(candidate["operations"]) if candidate else []
        refused.append(status == 1 and bool(found))
        figures[f"{port} fails at"] = ", ".join(found) or "nothing"
        figures[f"{port} is named"] = ", ".join(named(candidate["operations"]) if candidate else []) or "nothing"
    figures["TF32 in effect"] = is_in_effect(errors)
    write_figures(folder, figures)
    status, told = outcome(refused, in_effect=is_in_effect(errors))
    print(told)  # noqa: T201
    return status


def named(operations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the faults that the harness asserts of operations that fail, each once; not what is merely likeliest."""
    diagnoses = [row["diagnosis"] for row in operations if row["status"] == "fail" and row["diagnosis"]]
    return sorted({fault for diagnosis in diagnoses for fault in diagnosis["faults"]})


def is_in_effect(errors: Mapping[tuple[str, str], tuple[float, float]]) -> bool:
    """Whether allowing TF32 changed a product in every engine, and refusing it left none of them changed."""
    engines = {engine for engine, _ in errors}
    changed = {engine for (engine, _), (allowed, _) in errors.items() if allowed > IN_EFFECT}
    return changed == engines and all(refused < IN_EFFECT for _, refused in errors.values())


def outcome(refused: Sequence[bool], *, in_effect: bool) -> tuple[int, str]:
    """Return the exit status, and what was seen in a line."""
    if not all(refused):
        return 1, "a port that allows TF32 does not fail"
    if not in_effect:
        return (
            NOT_SHOWN,
            "both ports fail, of operands rounded to TF32: none was in effect here",
        )
    return 0, "both ports that allow TF32 fail"


def measured_errors() -> Iterator[tuple[tuple[str, str], tuple[float, float]]]:
    """Yield the engine and the size of a float32 product, and its errors: with TF32 allowed, and without."""
    for rows, inner, outer in SIZES:
        random = np.random.default_rng(0)
        x, w = (random.standard_normal(shape).astype(np.float32) for shape in ((rows, inner), (inner, outer)))
        exact = x.astype(np.float64) @ w.astype(np.float64)
        size = f"{rows} × {inner} × {outer}"
        made = [np.asarray(jnp.dot(x, w, precision=p)) for p in (jax.lax.Precision.DEFAULT, jax.lax.Precision.HIGHEST)]
        yield ("JAX", size), (relative(made[0], exact), relative(made[1], exact))
        made = [torch_product(x, w, precision) for precision in ("high", "highest")]
        yield ("torch", size), (relative(made[0], exact), relative(made[1], exact))


def torch_product(x: np.ndarray, w: np.ndarray, precision: str) -> np.ndarray:
    """Multiply where the torch port computes."""
    torch.set_float32_matmul_precision(precision)
    return (torch.tensor(x).to(device_here()) @ torch.tensor(w).to(device_here())).cpu().numpy()


def relative(observed: np.ndarray, exact: np.ndarray) -> float:
    """Return the root mean square of the error over that of the values."""
    return float(np.sqrt(np.mean((observed - exact) ** 2) / np.mean(exact**2)))


if __name__ == "__main__":
    sys.exit(main())
