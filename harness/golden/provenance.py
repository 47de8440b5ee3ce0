"""Where a golden set comes from: programs, machine and settings, told without importing an engine."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from grok_conformance.harness.golden.manifest import Provenance

DISTRIBUTION = "grok-conformance"
TOOLCHAIN = ("numpy", "ml-dtypes", "jax", "jaxlib", "dm-haiku")
CPU_FEATURE = re.compile(r"avx\w*|amx\w*|fma|f16c|asimd\w*|sve\w*|bf16")
"""Features of a CPU that change how floating-point sums are computed."""


def record_provenance(specification: str, precision: Mapping[str, str]) -> Provenance:
    """Record this process's provenance; `specification` names the SPEC, `precision` states every pin."""
    return Provenance(
        generator=f"{DISTRIBUTION} {_version(DISTRIBUTION)}",
        specification=specification,
        toolchain=record_toolchain(),
        platform=record_platform(),
        precision=dict(precision),
    )


def record_toolchain(*more: str) -> dict[str, str]:
    """Return the versions of Python and of the packages that compute, and of more; one not installed is `none`."""
    return {"python": platform.python_version(), **{name: _version(name) for name in (*TOOLCHAIN, *more)}}


def record_platform(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return the system, the CPU with its relevant features, the number of threads, and XLA's flags."""
    facts = _cpu_facts(cpuinfo)
    return {
        "system": platform.system(),
        "machine": platform.machine(),
        "cpu": facts.get("model name", platform.processor()),
        "cpu_features": " ".join(sorted(filter(CPU_FEATURE.fullmatch, facts.get("flags", "").split()))),
        "threads": str(os.cpu_count()),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def _version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "none"


def _cpu_facts(cpuinfo: Path) -> dict[str, str]:
    """Return the facts of the first CPU as Linux tells them, none elsewhere; ARM says `Features` for `flags`."""
    if not cpuinfo.is_file():
        return {}
    first = cpuinfo.read_text().split("\n\n")[0]
    facts = (line.partition(":") for line in first.splitlines())
    return {{"Features": "flags"}.get(key.strip(), key.strip()): value.strip() for key, _, value in facts}


SPECIFICATION = Path(__file__).resolve().parents[2] / "reference" / "SPEC.md"


PRECISION = {
    "matmul": "jax.lax.Precision.HIGHEST: float32 operands are multiplied in full float32, never TF32",
    "rounding": "jax.lax.reduce_precision wherever the specification says bf16 (SPEC §9)",
    "constants": "rounded to the compute dtype: 78.5 and 0.578125 in bf16 (SPEC §4.2)",
}


def specification_digest() -> str:
    """Return which specification the values implement."""
    return f"SPEC.md sha256 {hashlib.sha256(SPECIFICATION.read_bytes()).hexdigest()[:16]}"
