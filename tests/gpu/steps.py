"""The steps of the GPU session, a row each: what runs, what it must show, and its share of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

BUDGET_SECONDS = 480.0

NO_GPU, NOT_SHOWN = 4, 3
"""Exit statuses of a step, beside 0 passed and 1 failed: no GPU is here; it ran, but this machine cannot show it."""

QUICKLY_COMPILED = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
"""What is judged need not be fast: many small programs are compiled, and none is tried out in several ways first."""


@dataclass(frozen=True)
class Step:
    """A module that is run with arguments; what it must show; the seconds that are kept for it."""

    name: str
    shows: str
    seconds: float
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


STEPS = (
    Step("machine", "both engines, and the torch port, compute on the GPU", 30, "tests.gpu.machine"),
    Step("torch_eager", "the torch port conforms", 60, "tests.gpu.conformance", ("torch_eager",)),
    Step("tf32", "a port that allows TF32 products fails", 60, "tests.gpu.tf32", environment=QUICKLY_COMPILED),
    Step(
        "golden", "golden v1, captured here, lies within the fences of the committed set", 75, "tests.gpu.golden",
        environment=QUICKLY_COMPILED,
    ),
    Step(
        "jax_grouped", "the fast JAX port conforms", 75, "tests.gpu.conformance", ("jax_grouped",),
        environment=QUICKLY_COMPILED,
    ),
    Step(
        "reference", "the canonical model conforms", 75, "tests.gpu.conformance", ("reference",),
        environment=QUICKLY_COMPILED,
    ),
    Step("streaming", "full-size layers are captured about as fast as they are read or copied", 55, "tests.gpu.streaming"),
    Step("throughput", "prefill and decode of the ports that conform, side by side", 45, "tests.gpu.throughput"),
)  # fmt: skip


def scaled(steps: Sequence[Step], factor: float) -> list[Step]:
    """Return steps with other shares of time, for another budget."""
    return [replace(step, seconds=step.seconds * factor) for step in steps]


def allowance(shares: Sequence[float], left: float) -> float | None:
    """Return the seconds that the first of the steps ahead may take, None where less than its share is left.

    It may use what earlier ones did not need, but nothing of the later ones' shares.
    """
    first, *later = shares
    return max(first, left - sum(later)) if left >= first else None
