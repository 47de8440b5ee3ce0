"""The steps of the GPU session, a row each: what runs, what it must show, and its share of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

BUDGET_SECONDS = 480.0

NO_GPU, NOT_SHOWN = 4, 3
"""Exit statuses of a step, beside 0 passed and 1 failed: no GPU is here; it ran, but this machine cannot show it."""

QUICKLY_COMPILED = {"XLA_FLAGS": "--xla_gpu_autotune_level=0"}
"""What is judged need not be fast: many small programs are compiled, and none is tried out in several ways first."""


NO_SWEEPS = "?*"
"""All golden cases and what is drawn of them. The sweeps, of sizes of their own, would compile hundreds of programs."""


@dataclass(frozen=True)
class Step:
    """A module that is run with arguments; what it must show; the seconds that are kept for it."""

    name: str
    shows: str
    seconds: float
    module: str
    arguments: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)


JUDGE = "tests.gpu.conformance"

STEPS = (
    Step("machine", "both engines, and the torch port, compute on the GPU", 40, "tests.gpu.machine"),
    Step("torch_eager", "the torch port conforms", 55, JUDGE, ("torch_eager", "*")),
    Step("tf32", "a port that allows TF32 products fails", 60, "tests.gpu.tf32", (), QUICKLY_COMPILED),
    Step(
        "golden",
        "golden v1, captured here, is within fences of the set",
        70,
        "tests.gpu.golden",
        (),
        QUICKLY_COMPILED,
    ),
    Step("jax_grouped", "the fast JAX port conforms", 65, JUDGE, ("jax_grouped", NO_SWEEPS), QUICKLY_COMPILED),
    Step("reference", "the canonical model conforms", 55, JUDGE, ("reference", NO_SWEEPS), QUICKLY_COMPILED),
    Step("streaming", "full-size layers are captured as fast as disk or copy allow", 80, "tests.gpu.streaming"),
    Step("throughput", "prefill and decode of the ports that conform, side by side", 45, "tests.gpu.throughput"),
)
"""The cheap and telling ones first; `reference` finds what `golden` compiled. Together they leave time to begin."""


def scaled(steps: Sequence[Step], factor: float) -> list[Step]:
    """Return steps with other shares of time, for another budget."""
    return [replace(step, seconds=step.seconds * factor) for step in steps]


def allowance(shares: Sequence[float], left: float) -> float | None:
    """Return the seconds that the first of the steps ahead may take, None where less than its share is left.

    It may use what earlier ones did not need, but nothing of the later ones' shares.
    """
    first, *later = shares
    return max(first, left - sum(later)) if left >= first else None
