"""A streamed capture against reading the same files: `python -m tests.benchmarks.streaming --checkpoint DIR`.

First `capture --config grok-1` runs over the checkpoint, 64 tokens through every layer, in a process of its own;
then what it needed is read in the same order into one small buffer. The files' pages are dropped from the page cache
before either. With `--tokens 1` only the experts that the router chose are needed, as in decoding. Printed are the wall
time of each, their ratio, and the capture's peak resident size. A disk that is faster than two cores can multiply what
it gives is no yardstick: `--disk 2` holds both to 2 GB/s.
Exit status 1 if a limit is exceeded. Make the checkpoint with
`python -m grok_conformance.reference.checkpoint synthesize --config grok-1 --distinct-layers 3 DIR` (18 GB).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from grok_conformance.harness.commands.capturing_large import NUM_TOKENS, draw_prompt
from grok_conformance.harness.large.canonical import preset_config
from grok_conformance.harness.large.store import read_stage
from grok_conformance.reference.checkpoint.layout import LeafFile, find_leaves
from grok_conformance.reference.config import PRESETS
from grok_conformance.reference.streaming.files import EXPERTS
from grok_conformance.reference.streaming.reading import READ_BYTES, element, whole
from tests.benchmarks.results import say

MAX_TIME_RATIO = 1.15
"""Of the capture's wall time to that of reading, through all layers, on two cores and a disk of 2 GB/s or less."""

FAST_BYTES, MAX_FAST_RATIO = 2.2e9, 1.8
"""Of a disk that gives more than so many bytes per second, 4e9 say, the ratio is larger: two cores are slower."""

MAX_RESIDENT_GIB = 4.0
"""Of the capture's process."""


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.streaming", description=__doc__)
    parser.add_argument("--checkpoint", type=Path, required=True, metavar="DIR", help="the checkpoint")
    parser.add_argument("--config", default="grok-1", choices=PRESETS, help="its configuration (default: grok-1)")
    parser.add_argument("--layers", type=int, metavar="N", help="only the first N layers, and no logits")
    parser.add_argument("--tokens", type=int, default=NUM_TOKENS, metavar="N", help=f"(default: {NUM_TOKENS})")
    parser.add_argument("--form", default="rows", help="of the capture (default: rows)")
    parser.add_argument("--out", type=Path, metavar="DIR", help="keep the capture in this new folder")
    parser.add_argument("--disk", type=float, metavar="GB_PER_SECOND", help="hold the disk to a rate")
    options = parser.parse_args()
    leaves = find_leaves(options.checkpoint, PRESETS[options.config])
    drop([leaf.path for leaf in leaves])
    with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
        out, prompt = options.out or Path(folder) / "capture", Path(folder) / "prompt.json"
        prompt.write_text(json.dumps([draw_prompt(preset_config(options.config))[0, : options.tokens].tolist()]))
        first = ["--layers", str(options.layers)] if options.layers else []
        program = ["tests.benchmarks.slow_disk", str(options.disk)] if options.disk else ["grok_conformance"]
        command = [sys.executable, "-m", *program, "capture", "--config", options.config]
        command += [
            "--checkpoint",
            options.checkpoint,
            "--prompt",
            prompt,
            "--form",
            options.form,
            "--out",
            out,
            *first,
        ]
        seconds, resident_gib = run(command)
        parts = parts_in_order(leaves, options.config, options.layers, out)
    num_bytes = sum(part.stop - part.start for part in parts)
    held = f", the disk held to {options.disk:g} GB/s" if options.disk else ""
    say(f"capture  {num_bytes / 1e9:8.2f} GB in {seconds:7.1f} s, {num_bytes / seconds / 1e9:.2f} GB/s{held}")
    began = time.perf_counter()
    read(parts)
    read_seconds = max(time.perf_counter() - began, num_bytes / (options.disk * 1e9) if options.disk else 0.0)
    say(f"reading  {num_bytes / 1e9:8.2f} GB in {read_seconds:7.1f} s, {num_bytes / read_seconds / 1e9:.2f} GB/s")
    ratio = seconds / read_seconds
    limit = MAX_FAST_RATIO if num_bytes / read_seconds > FAST_BYTES else MAX_TIME_RATIO
    say(f"capture / reading {ratio:.2f} (limit {limit})")
    say(f"peak resident size {resident_gib:.2f} GiB (limit {MAX_RESIDENT_GIB})")
    return 0 if ratio <= limit and resident_gib <= MAX_RESIDENT_GIB else 1


class Part(NamedTuple):
    """Bytes start..stop of a file."""

    path: Path
    start: int
    stop: int


def parts_in_order(leaves: Sequence[LeafFile], config: str, num_layers: int | None, capture: Path) -> list[Part]:
    """Return what a capture read, layer by layer; the table, which only the logits need whole, last."""
    found: list[Part] = []
    for i in range(num_layers or PRESETS[config].model.num_layers):
        stage, owner = f"layers.{i:02d}", f"transformer/decoder_layer_{i}/"
        chosen = np.unique(read_stage(capture, stage)[f"call0/{stage}.moe.expert_index"]).tolist()
        for leaf in leaves:
            if leaf.module.startswith(owner):
                experts = chosen if leaf.module.removeprefix(owner).startswith(EXPERTS) else ()
                found += parts_of(leaf, experts)
    return found + [
        whole_file(leaf.path) for leaf in leaves if leaf.module.startswith("language_model/") and not num_layers
    ]


def parts_of(leaf: LeafFile, experts: Collection[int]) -> list[Part]:
    """Return the parts of a leaf's file that hold some experts; the whole file for all of them, or none."""
    if len(experts) in {0, leaf.stored.weight.shape[0]}:
        return [whole_file(leaf.path)]
    regions = [element(whole(leaf.path, array), int(e)) for array in leaf.stored.arrays for e in experts]
    return [Part(region.path, region.offset, region.offset + region.num_bytes) for region in regions]


def whole_file(path: Path) -> Part:
    """Return all of a file."""
    return Part(path, 0, path.stat().st_size)


def run(command: Sequence[Any]) -> tuple[float, float]:
    """Run a program; return its wall seconds and its peak resident size in GiB."""
    began = time.perf_counter()
    process = subprocess.Popen(command)  # noqa: S603 - this repository's own command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - began, usage.ru_maxrss / 2**20


def read(parts: Sequence[Part]) -> None:
    """Read parts of files one after the other from the disk."""
    buffer = memoryview(bytearray(READ_BYTES))
    for path, start, stop in parts:
        drop([path])
        with path.open("rb", buffering=0) as file:
            file.seek(start)
            while (left := stop - file.tell()) > 0 and file.readinto(buffer[:left]):
                pass
        drop([path])


def drop(paths: Sequence[Path]) -> None:
    """Drop the pages of files from the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
