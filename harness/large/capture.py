"""Captures a large model: streamed, reduced and written stage by stage, and resumed where it was cut off."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.golden.manifest import Provenance, file_digest
from grok_conformance.harness.golden.provenance import PRECISION, record_provenance, specification_digest
from grok_conformance.harness.large import canonical, store
from grok_conformance.harness.large.forms import reduce_taps, written_bytes
from grok_conformance.harness.large.plan import Plan

Progress = Callable[[str], object]
"""Called with the name of every stage that is on the disk."""


def capture(
    folder: Path,
    plan: Plan,
    checkpoint: Path,
    *,
    processes: canonical.Processes | None = None,
    on_progress: Progress = lambda _stage: None,
) -> str:
    """Capture what a plan says into a folder and return the sha256 of its manifest.

    What is already there of the same capture, by digest, is kept. With several processes the first one writes.
    Raises FileError, and what was finished stays.
    """
    if processes is not None and processes.index > 0:
        done, carried = canonical.agree(0, [], plan)
        for _ in canonical.run(plan, checkpoint, done, carried):
            pass
        return ""
    with store.locked(folder):
        store.begin(folder, plan)
        done, carried = store.finished(folder, plan)
        for stage in plan.stages[:done]:
            on_progress(stage)
        if processes is not None:
            done, carried = canonical.agree(done, carried, plan)
        if (folder / MANIFEST).exists() and done == len(plan.stages):
            store.read_manifest(folder)
            return file_digest(folder / MANIFEST)
        _write(folder, plan, canonical.run(plan, checkpoint, done, carried), done, on_progress)
        return store.complete(folder, plan, provenance())


def provenance() -> Provenance:
    """Return where the values of a large capture come from; on an accelerator its driver and library too."""
    recorded = record_provenance(specification_digest(), PRECISION)
    return Provenance(**(vars(recorded) | {"platform": {**recorded.platform, **canonical.record_device()}}))


def _write(folder: Path, plan: Plan, stages: Iterator[canonical.Stage], done: int, on_progress: Progress) -> None:
    """Write stages, each while the next one is computed."""
    before = dict(zip(plan.stages, (None, *plan.stages), strict=False))

    def write(name: str, stage: canonical.Stage) -> None:
        store.write_stage(folder, name, before[name], reduce_taps(plan, stage.taps), stage.carried)
        on_progress(name)

    with ThreadPoolExecutor(1) as writer:
        pending: Future[None] | None = None
        for name, stage in zip(plan.stages[done:], stages, strict=True):
            if pending is not None:
                pending.result()
            pending = writer.submit(write, name, stage)
        if pending is not None:
            pending.result()


@dataclass(frozen=True)
class Estimate:
    """What a capture will take: bytes read and written, bytes free on the disk, peak memory, and seconds."""

    read_bytes: int
    written_bytes: int
    free_bytes: int
    memory_bytes: int
    seconds: float


def estimate(folder: Path, plan: Plan, checkpoint: Path) -> Estimate:
    """Return what a capture of a plan would take; some of the checkpoint is read to see how fast the disk is."""
    sizes = canonical.sizes(plan, checkpoint)
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return Estimate(
        read_bytes=sizes.read_bytes,
        written_bytes=written_bytes(plan),
        free_bytes=shutil.disk_usage(existing).free,
        memory_bytes=sizes.memory_bytes,
        seconds=sizes.read_bytes / sizes.bytes_per_second,
    )
