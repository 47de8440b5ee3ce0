"""Streams full-size layers from the disk through the GPU: `python -m tests.gpu.streaming --folder DIR`.

A step of `tests.gpu.session`. Random layers of Grok-1's size are written once and captured by rows, after one that
compiles the programs. In the same run the same files are read into memory alone, and as many bytes are copied from
memory to the device alone: a capture cannot be faster than the slower of the two, and is held to a multiple of it. One
layer is then judged operation by operation, a sample of its experts' channels. A dry run takes the narrow `bench`
preset, whose ratios say nothing.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.large import canonical
from grok_conformance.harness.large.capture import capture
from grok_conformance.harness.large.check import Sample, check_stage
from grok_conformance.harness.large.plan import Plan
from grok_conformance.reference.checkpoint.arrays import NUM_THREADS
from grok_conformance.reference.checkpoint.layout import find_leaves
from grok_conformance.reference.checkpoint.synthesis import synthesize
from tests.benchmarks.streaming import read, whole_file
from tests.conformance.large_local import plan_of_layers
from tests.gpu.results import write_figures
from tests.gpu.steps import NOT_SHOWN

MAX_TIME_RATIO = 2.0
"""Of the capture to the slower one of reading and copying."""

NUM_LAYERS = 2
VOCABULARY = 1024
"""Rows of the table, which no layer needs."""

COPY_BYTES = 2**28
NUM_CEILINGS = 2
"""So often each ceiling is measured, of which the fastest counts: one that is too slow would flatter the capture."""

FRACTION = 1 / 64
"""Of the experts' channels, judged."""


def main() -> int:
    """Capture, read, copy, judge; exit status 0 within the limit and the fences, 3 of a dry run within the fences."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.streaming", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    checkpoint = options.folder / "checkpoint"
    for name in ("checkpoint", "compiling", "captured"):
        shutil.rmtree(options.folder / name, ignore_errors=True)
    plan, made = written_plan("bench" if options.cpu else "grok-1", checkpoint)
    capture(options.folder / "compiling", replace(plan, num_layers=1), checkpoint)
    took = seconds_of(lambda: capture(options.folder / "captured", plan, checkpoint))
    files = files_of(plan, checkpoint)
    num_bytes = sum(file.stat().st_size for file in files)
    reading = min(seconds_of(lambda: read_at_once(files)) for _ in range(NUM_CEILINGS))
    piece = np.ones(COPY_BYTES, np.int8)  # outside of what is timed: its pages are touched for the first time
    copy(piece, piece.nbytes)
    copying = min(seconds_of(lambda: copy(piece, num_bytes)) for _ in range(NUM_CEILINGS))
    ratio = took / max(reading, copying)
    figures = {
        "layers": f"{NUM_LAYERS} of {plan.name}'s size, {num_bytes / 1e9:.2f} GB, written in {made:.1f} s",
        "captured": speed(num_bytes, took),
        "read alone": speed(num_bytes, reading),
        "copied to the device alone": speed(num_bytes, copying),
        "capture / reading": f"{took / reading:.2f}",
        "capture / copying": f"{took / copying:.2f}",
        "capture / the slower of the two": f"{ratio:.2f} (limit {MAX_TIME_RATIO:g})",
    }
    write_figures(options.folder, figures)
    judged = judged_layer(options.folder / "captured", plan, checkpoint)
    write_figures(options.folder, figures | judged)
    shutil.rmtree(checkpoint)
    if judged["beyond fences"] != "none":
        return 1
    if options.cpu:
        print(f"the layer lies within its fences; {plan.name} is too narrow for a ratio")  # noqa: T201
        return NOT_SHOWN
    return 0 if ratio <= MAX_TIME_RATIO else 1


def written_plan(name: str, checkpoint: Path) -> tuple[Plan, float]:
    """Write a checkpoint of one layer under several names; return the plan of its capture, and the seconds it took."""
    whole = canonical.preset_config(name)
    config = replace(whole, vocab_size=VOCABULARY, model=replace(whole.model, num_layers=NUM_LAYERS + 1))

    def make() -> None:
        synthesize(checkpoint, canonical.reference_config(config), distinct_layers=1)
        os.sync()  # pages that are not on the disk yet cannot be dropped: they would be read from memory

    made = seconds_of(make)
    return plan_of_layers(name, config, checkpoint, NUM_LAYERS), made


def files_of(plan: Plan, checkpoint: Path) -> list[Path]:
    """Return the files that a capture reads, layer by layer."""
    leaves = find_leaves(checkpoint, canonical.reference_config(plan.config))
    prefixes = [f"transformer/decoder_layer_{i}/" for i in range(plan.num_layers)]
    return [leaf.path for prefix in prefixes for leaf in leaves if leaf.module.startswith(prefix)]


def read_at_once(files: Sequence[Path]) -> None:
    """Read files by as many threads as the capture has."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(lambda file: read([whole_file(file)]), files))


def copy(piece: Array, num_bytes: int) -> None:
    """Copy so many bytes from memory to the device, a piece at a time, the last one cut."""
    for begin in range(0, num_bytes, piece.nbytes):
        jax.block_until_ready(jax.device_put(piece[: num_bytes - begin], may_alias=False))


def seconds_of(action: Callable[[], Any]) -> float:
    """Return the seconds that an action takes."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def speed(num_bytes: int, seconds: float) -> str:
    """Return seconds and bytes per second in words."""
    return f"{seconds:.2f} s, {num_bytes / seconds / 1e9:.2f} GB/s"


def judged_layer(folder: Path, plan: Plan, checkpoint: Path) -> dict[str, str]:
    """Return what the check of the second captured layer found."""
    stage = plan.stages[2]
    stored = canonical.CheckpointWeights(checkpoint, plan.config)
    found = list(check_stage(folder, plan, stage, stored, Sample(fraction=FRACTION)))
    worst = max(found, key=lambda comparison: comparison.ratio)
    return {
        "judged": f"{len(found)} taps of {stage}; largest measured / allowed {worst.ratio:.3g}, {worst.tap}",
        "beyond fences": ", ".join(each.tap for each in found if not each.passed) or "none",
    }


if __name__ == "__main__":
    sys.exit(main())
