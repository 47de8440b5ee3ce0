"""What loading one full-size layer of Grok-1 costs over reading it: `python -m tests.benchmarks.checkpoint_load`.

Writes 5 GB of random weights into a temporary directory (TMPDIR chooses where) and needs 11 GB of memory.
Time: medians of rounds in which the load and its yardsticks follow each other, with the files in the page cache (warm)
and out of it (cold), and with memory that was touched just before. The yardsticks keep the bytes, as a load must, and
know nothing of checkpoints: `read_bytes` of one file after the other, and of all files in as many threads as the load
has; the faster one counts. Memory: peak resident size of a process of its own above what it had before the load.
Exit status 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint.arrays import NUM_THREADS
from grok_conformance.reference.checkpoint.layout import find_leaves
from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.config import GROK_1
from grok_conformance.reference.partitioning import make_mesh
from tests.benchmarks.results import say

ONE_LAYER = replace(GROK_1, vocab_size=8, model=replace(GROK_1.model, num_layers=1))

MAX_TIME_RATIO = 1.3
"""Of the time of the load to that of the faster yardstick."""

MAX_MEMORY_RATIO = 1.1
"""Of the peak memory of the load to the bytes of the layer."""

MESHES = {"no mesh": None, "mesh (1, 1)": (1, 1), "mesh (1, 8)": (1, 8), "mesh (2, 4)": (2, 4)}


def main() -> int:
    """Run the benchmark, or, in a child process, print the peak memory of one load."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.checkpoint_load", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each timing (default: 5)")
    parser.add_argument("--peak-of", nargs=2, metavar=("DIRECTORY", "MESH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak_of:
        say(str(peak_bytes(Path(options.peak_of[0]), MESHES[options.peak_of[1]])))
        return 0
    with tempfile.TemporaryDirectory(prefix="checkpoint-load-") as name:
        directory = Path(name)
        synthesize(directory, ONE_LAYER)
        leaves = find_leaves(directory, ONE_LAYER, "transformer/decoder_layer_0/")
        files = [leaf.path for leaf in leaves]
        layer_bytes = sum(array.num_bytes for leaf in leaves for array in leaf.stored.arrays)
        say(f"one layer: {layer_bytes:,} bytes in {len(files)} files, {NUM_THREADS} threads")
        within = [time_ratio(directory, files, options.rounds, cold=cold) <= MAX_TIME_RATIO for cold in (False, True)]
        within += [memory_ratio(directory, mesh, layer_bytes) <= MAX_MEMORY_RATIO for mesh in MESHES]
    return 0 if all(within) else 1


def time_ratio(directory: Path, files: Sequence[Path], rounds: int, *, cold: bool) -> float:
    """Return the median time of the load over that of the faster yardstick."""
    measured: dict[str, Callable[[], object]] = {
        "read": lambda: [file.read_bytes() for file in files],
        "read in threads": lambda: read_in_threads(files),
        "load": lambda: checkpoint.load_layer(directory, ONE_LAYER, 0),
    }
    seconds: dict[str, list[float]] = {name: [] for name in measured}
    for _ in range(rounds):
        for name, action in measured.items():
            set_page_cache(files, cold=cold)
            touch_memory(sum(file.stat().st_size for file in files))
            seconds[name].append(time_of(action))
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    ratio = medians["load"] / min(medians["read"], medians["read in threads"])
    figures = ", ".join(f"{name} {median:.2f} s" for name, median in medians.items())
    say(f"time, {'cold' if cold else 'warm'}: {figures}; {ratio:.2f} of reading (limit {MAX_TIME_RATIO})")
    return ratio


def memory_ratio(directory: Path, mesh: str, layer_bytes: int) -> float:
    """Return the peak memory of a load in a process of its own over the bytes of the layer."""
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.benchmarks.checkpoint_load", "--peak-of", str(directory), mesh]
    answer = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603 - this module
    ratio = int(answer.stdout) / layer_bytes
    say(f"memory, {mesh}: {int(answer.stdout):,} bytes, {ratio:.3f} of the layer (limit {MAX_MEMORY_RATIO})")
    return ratio


def peak_bytes(directory: Path, mesh: tuple[int, int] | None) -> int:
    """Return by how much the load raises the largest resident size of this process."""
    on_mesh = make_mesh(mesh) if mesh else None
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    params = checkpoint.load_layer(directory, ONE_LAYER, 0, on_mesh)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    del params
    return peak - before


def read_in_threads(files: Sequence[Path]) -> list[bytes]:
    """Return the bytes of all files, read in threads."""
    with ThreadPoolExecutor(NUM_THREADS) as threads:
        return list(threads.map(Path.read_bytes, files))


def set_page_cache(files: Sequence[Path], *, cold: bool) -> None:
    """Bring the files into the page cache, or drop them from it."""
    for file in files:
        with file.open("rb", buffering=0) as opened:
            if cold:
                os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            else:
                buffer = bytearray(1 << 20)
                while opened.readinto(buffer):
                    pass


def touch_memory(num_bytes: int) -> None:
    """Take and free the memory that is about to be needed: the host of a virtual machine gives it slowly at first."""
    np.empty(num_bytes, np.uint8).fill(1)


def time_of(action: Callable[[], object]) -> float:
    """Return the seconds that the action takes; its result is freed afterwards."""
    started = time.perf_counter()
    result = action()
    seconds = time.perf_counter() - started
    del result
    return seconds


if __name__ == "__main__":
    sys.exit(main())
