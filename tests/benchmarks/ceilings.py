"""What this machine can do at most: products, memory and disk, measured beside what is held against them."""

from __future__ import annotations

import os
import platform
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from tests.benchmarks.gates import least_seconds

MATRIX_SIZE = 2048
COPY_BYTES = 2**28
DISK_BYTES = 2**28


@dataclass(frozen=True)
class Ceilings:
    """The best of some repetitions: products per dtype in FLOP/s, reading memory and a cold file in bytes/s."""

    flops_per_second: dict[str, float]
    memory_bytes_per_second: float
    disk_bytes_per_second: float


def measure_ceilings(num_repetitions: int = 5) -> Ceilings:
    """Measure the ceilings with all cores."""
    flops = {}
    for dtype in ("float32", "bfloat16"):
        x = jnp.ones((MATRIX_SIZE, MATRIX_SIZE), dtype)
        product = jax.jit(lambda x: jnp.dot(x, x, preferred_element_type=jnp.float32))
        (seconds,) = least_seconds(lambda: product(x).block_until_ready(), num_rounds=num_repetitions)  # noqa: B023 - called at once
        flops[dtype] = 2 * MATRIX_SIZE**3 / seconds
    data = jnp.ones(COPY_BYTES // 4, jnp.float32)
    total = jax.jit(jnp.sum)
    (seconds,) = least_seconds(lambda: total(data).block_until_ready(), num_rounds=num_repetitions)
    return Ceilings(flops, COPY_BYTES / seconds, disk_speed())


def disk_speed() -> float:
    """Return the bytes per second of reading a file that is not in the page cache."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(np.random.default_rng(0).bytes(DISK_BYTES))
        file.flush()
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        began = time.perf_counter()
        Path(file.name).read_bytes()
        return DISK_BYTES / (time.perf_counter() - began)


def machine() -> str:
    """Return the processor and its number of cores, in words."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine()
    )
    features = next((line.split() for line in lines if line.startswith("flags")), [])
    extensions = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile") if name in features]
    return f"{model}, {os.cpu_count()} cores, {' '.join(extensions)}".rstrip(", ")
