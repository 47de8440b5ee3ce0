"""A streamed capture against reading the same files: `python -m tests.benchmarks.streaming --checkpoint DIR`.

First `capture --config grok-1` runs over the checkpoint, 64 tokens through every layer, in a process of its own;
then the same files are read in the same order into one small buffer. Both drop a file's pages from the page cache
first. Printed are the wall time of each, their ratio, and the capture's peak resident size.
Exit status 1 if a limit is exceeded. Make the checkpoint with
`python -m grok_conformance.reference.checkpoint synthesize --config grok-1 --distinct-layers 3 DIR` (18 GB).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from grok_conformance.reference.checkpoint.layout import find_leaves
from grok_conformance.reference.config import PRESETS
from grok_conformance.reference.streaming.reading import READ_BYTES
from tests.benchmarks.results import say

MAX_TIME_RATIO = 2.0
"""Of the capture's wall time to that of reading."""

MAX_RESIDENT_GIB = 14.0
"""Of the capture's process."""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streaming", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the checkpoint")
    parser.add_argument("--config", default="grok-1", choices=PRESETS, help="its configuration (default: grok-1)")
    parser.add_argument("--layers", type=int, metavar="N", help="only the first N layers, and no logits")
    parser.add_argument("--form", default="rows", help="of the capture (default: rows)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the capture in this new folder")
    options = parser.parse_args()
    files = files_in_order(options.checkpoint, options.config, options.layers)
    num_bytes = sum(file.stat().st_size for file in files)
    with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
        limit = ["--layers", str(options.layers)] if options.layers else []
        command = [
            sys.executable,
            "-m",
            "grok_conformance",
            "capture",
            "--config",
            options.config,
            "--form",
            options.form,
        ]
        command += ["--checkpoint", str(options.checkpoint), "--out", str(options.out or f"{folder}/capture"), *limit]
        seconds, resident_gib = run(command)
    say(f"capture  {num_bytes / 1e9:8.2f} GB in {seconds:7.1f} s, {num_bytes / seconds / 1e9:.2f} GB/s")
    began = time.perf_counter()
    read(files)
    read_seconds = time.perf_counter() - began
    say(f"reading  {num_bytes / 1e9:8.2f} GB in {read_seconds:7.1f} s, {num_bytes / read_seconds / 1e9:.2f} GB/s")
    ratio = seconds / read_seconds
    say(f"capture / reading {ratio:.2f} (limit {MAX_TIME_RATIO})")
    say(f"peak resident size {resident_gib:.2f} GiB (limit {MAX_RESIDENT_GIB})")
    return 0 if ratio <= MAX_TIME_RATIO and resident_gib <= MAX_RESIDENT_GIB else 1


def files_in_order(directory: Path, config: str, num_layers: int | None) -> list[Path]:
    """Return the files that a capture reads, layer by layer; the table, which only the logits need whole, last."""
    leaves = find_leaves(directory, PRESETS[config])
    count = num_layers or PRESETS[config].model.num_layers
    layers = [
        leaf.path for i in range(count) for leaf in leaves if leaf.module.startswith(f"transformer/decoder_layer_{i}/")
    ]
    return layers + [leaf.path for leaf in leaves if leaf.module.startswith("language_model/") and not num_layers]


def run(command: Sequence[str]) -> tuple[float, float]:
    """Run a program; return its wall seconds and its peak resident size in GiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 - this repository's own command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def read(files: Sequence[Path]) -> None:
    """Read files one after the other from the disk."""
    buffer = bytearray(READ_BYTES)
    for path in files:
        with path.open("rb", buffering=0) as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            while file.readinto(buffer):
                pass
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
