"""The folder of a large capture: stage by stage, each whole or absent, and a manifest once all are there.

```
plan.json                what is captured
STAGE.safetensors        what is kept of a stage: embedding, layers.00, …, logits
STAGE.json               the digest of every tensor of the stage, and of the record before; written after them
manifest.json            the digests of plan and stages, and where the values come from; written last
.carry.STAGE.safetensors the residual streams after the last finished stage, until the capture is complete
.lock                    held by the process that writes
```
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grok_conformance.harness.contract import Array
from grok_conformance.harness.contract.taps import MANIFEST
from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.tensors import TensorFile, digest, open_tensors, write_tensors
from grok_conformance.harness.golden.manifest import Provenance, describe, file_digest
from grok_conformance.harness.large.plan import FORMAT, PLAN, Plan, differences, read_plan, write_plan

LOCK = ".lock"

RECORD = {"before": str, "tensors": dict, "carried": dict}
"""What the record of a stage holds."""


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a folder for writing; the system lets go of it when the process ends, however it ends.

    Raises FileError if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / LOCK).open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FileError(f"{folder}: another capture is writing there: wait for it, or give --out") from None
            for path in folder.glob(".*.partial"):  # of a process that was killed
                path.unlink()
            yield
    except OSError as error:
        raise FileError(f"{folder}: cannot be written: {error.strerror or error}; finished layers stay") from None


def begin(folder: Path, plan: Plan) -> None:
    """Write the plan of a new capture, or make sure that the one begun there has the same; raises FileError."""
    if not (folder / PLAN).exists():
        write_plan(folder, plan)
        return
    changed = differences(read_plan(folder), plan)
    if changed:
        raise FileError(f"{folder}: holds a capture with another {', '.join(changed)}: give a new --out, or remove it")


def write_stage(
    folder: Path, stage: str, before: str | None, tensors: Mapping[str, Array], carried: Sequence[Array]
) -> None:
    """Write a stage: its tensors, what the next stage starts from, then the record that makes it count.

    `before` is the stage before it, whose record this one vouches for.
    """
    write_tensors(folder / f"{stage}.safetensors", tensors)
    write_tensors(_carry(folder, stage), {f"call{i}": x for i, x in enumerate(carried)})
    record = {name: asdict(stored) for name, stored in describe(tensors).items()}
    carry = {f"call{i}": digest(x) for i, x in enumerate(carried)}
    write_json(
        folder / f"{stage}.json", {"before": _record_digest(folder, before), "tensors": record, "carried": carry}
    )
    for path in folder.glob(".carry.*"):
        if path != _carry(folder, stage):
            path.unlink()


def finished(folder: Path, plan: Plan) -> tuple[int, list[Array]]:
    """Return how many stages, from the first on, are on the disk as their records say, and what the next starts from.

    The last of them must have left its residual streams; a stage whose files are damaged is made again, and all
    after it.
    """
    done = 0
    for stage, before in zip(plan.stages, (None, *plan.stages), strict=False):
        if stage_problem(folder, stage) or read_record(folder, stage)["before"] != _record_digest(folder, before):
            break
        done += 1
    while done:
        carried = read_carried(folder, plan.stages[done - 1])
        if carried is not None:
            return done, carried
        if done == len(plan.stages):
            return done, []
        done = 0
    return 0, []


def read_carried(folder: Path, stage: str) -> list[Array] | None:
    """Return the residual streams after a stage, call by call; None unless they are as its record says."""
    try:
        file = open_tensors(_carry(folder, stage))
        known = read_record(folder, stage)["carried"]
    except FileError:
        return None
    if {name: digest(x) for name, x in file.items()} != known:
        return None
    return [file[f"call{i}"] for i in range(len(file))]


def stage_problem(folder: Path, stage: str) -> str:
    """Return which tensor of a stage is not as its record says, an empty string if none."""
    try:
        record = read_record(folder, stage)["tensors"]
        file = open_tensors(folder / f"{stage}.safetensors")
    except FileError as error:
        return str(error)
    found = {name: asdict(stored) | {"shape": list(stored.shape)} for name, stored in describe(file).items()}
    wrong = sorted(name for name in found.keys() | record.keys() if found.get(name) != record.get(name))
    return f"{folder / stage}.safetensors: tensor {wrong[0]!a} was altered" if wrong else ""


def read_record(folder: Path, stage: str) -> Any:
    """Read the record of a stage; raises FileError."""
    path = folder / f"{stage}.json"
    record = read_json(path)
    if not isinstance(record, dict) or {key: type(value) for key, value in record.items()} != RECORD:
        raise FileError(f"{path}: not the record of a stage")
    return record


def complete(folder: Path, plan: Plan, provenance: Provenance) -> str:
    """Write the manifest of a capture whose stages are all there; return its sha256."""
    data = {
        "format": FORMAT,
        "plan": file_digest(folder / PLAN),
        "provenance": asdict(provenance),
        "stages": {stage: file_digest(folder / f"{stage}.json") for stage in plan.stages},
    }
    validate(data, "large_manifest")
    write_json(folder / MANIFEST, data)
    for path in folder.glob(".carry.*"):
        path.unlink()
    return file_digest(folder / MANIFEST)


def read_manifest(folder: Path) -> Any:
    """Read the manifest of a complete capture, the plan and the records verified; raises FileError."""
    path = folder / MANIFEST
    if not path.exists():
        raise FileError(f"{folder}: no complete capture: give the command that began it once more")
    data = read_json(path)
    try:
        validate(data, "large_manifest")
    except ValueError as error:
        raise FileError(f"{path}: {error}") from None
    known = {PLAN: data["plan"], **{f"{stage}.json": sha256 for stage, sha256 in data["stages"].items()}}
    for name, sha256 in known.items():
        if not (folder / name).is_file() or hashlib.sha256((folder / name).read_bytes()).hexdigest() != sha256:
            raise FileError(f"{folder / name}: missing or altered: restore it, or capture again into a new folder")
    return data


def read_stage(folder: Path, stage: str) -> TensorFile:
    """Return the verified tensors of a stage; raises FileError."""
    problem = stage_problem(folder, stage)
    if problem:
        raise FileError(f"{problem}: restore it, or capture again into a new folder")
    return open_tensors(folder / f"{stage}.safetensors")


def _record_digest(folder: Path, stage: str | None) -> str:
    return "" if stage is None else file_digest(folder / f"{stage}.json")


def _carry(folder: Path, stage: str) -> Path:
    return folder / f".carry.{stage}.safetensors"
