"""A candidate against its own earlier run: bit-identical, changed within fences, or moved beyond; slower, or too fast.

A folder of baselines holds for every candidate `baseline.json`, which only `--update-baseline` replaces, and
`history.jsonl`, to which every run adds a line.
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.formats.files import (
    MAX_REPORT_BYTES,
    FileError,
    parse_json,
    read_json,
    whole_file,
    write_json,
)
from grok_conformance.harness.formats.tensors import digest, open_tensors
from grok_conformance.harness.golden.provenance import record_platform
from grok_conformance.harness.judging.told import conformance_digest
from grok_conformance.harness.judging.verdict import SEVERITY, CandidateVerdict, Status

FORMAT = 1

MAX_SECONDS, MAX_BYTES = 1e12, 2**60
"""The most time and memory that a kept run may have taken."""

REMEDY = "write it again with --update-baseline"


History = tuple[Mapping[str, Any], ...]
"""A line for every run, oldest first, as `line_of` makes them."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """What is kept of a run: `operations` maps "operation dtype" to its status, `taps` "case call0/TAP" to its sha256.

    `seconds` is the candidate's own time by case, `peak_bytes` the most memory seen (0 where it cannot be sampled).
    `digest` is that of the conformance run.
    """

    candidate: str
    version: str
    suite: str
    digest: str
    status: Status
    platform: Mapping[str, str]
    operations: Mapping[str, Status]
    taps: Mapping[str, str]
    seconds: Mapping[str, float]
    peak_bytes: int


def record_of(verdict: CandidateVerdict, answers: Path, suite: str) -> Record:
    """Return what is kept of a run, given the folder of its answers, one folder per job in it."""
    runs = [read_json(path) for path in sorted(answers.glob("*/run.json"))]
    stored = [case for case in verdict.cases if drawn_as(case.case) is None]
    return Record(
        candidate=verdict.name,
        version=verdict.version,
        suite=suite,
        digest=conformance_digest(verdict),
        status=verdict.status,
        platform=record_platform(),
        operations={f"{row.operation} {row.fprop_dtype}": row.status for row in verdict.operations},
        taps={key: value for key, value in tap_digests(answers) if drawn_as(key) is None},
        seconds={case.case: case.seconds for case in stored if case.seconds is not None},
        peak_bytes=max((end["peak_bytes"] for each in runs for end in each["exits"]), default=0),
    )


def tap_digests(answers: Path) -> Iterator[tuple[str, str]]:
    """Yield ("job/case call0/TAP", sha256) of every tap in a candidate's answers; what cannot be read is left out.

    The number before a case's folder is left out too: it depends on which cases are run.
    """
    for path in sorted(answers.glob("*/*/taps.safetensors")):
        try:
            tensors = open_tensors(path)
        except FileError:
            continue
        job, case = path.parent.parent.name, path.parent.name.partition("-")[2]
        yield from ((f"{job}/{case} {key}", digest(array)) for key, array in tensors.items())


def folder_of(directory: Path, candidate: str) -> Path:
    """Return the folder of a candidate's baseline."""
    return directory / candidate.replace("/", "_")


def has_baseline(directory: Path, candidate: str) -> bool:
    """Return whether a candidate has a baseline, readable or not."""
    return (folder_of(directory, candidate) / "baseline.json").exists()


def read_baseline(directory: Path, candidate: str) -> Record:
    """Read a candidate's baseline; raises FileError where there is none, or something else."""
    path = folder_of(directory, candidate) / "baseline.json"
    if not path.exists():
        raise FileError(f"{path}: no baseline of {candidate} yet: write it with --update-baseline")
    try:
        data = read_json(path, MAX_REPORT_BYTES)
    except FileError as error:
        raise FileError(f"{error}: {REMEDY}") from None
    match data:
        case {
            "format": int(number),
            "candidate": str(), "version": str(), "suite": str(), "digest": str(), "status": str(status),
            "platform": {"cpu": str()}, "operations": dict(operations), "taps": dict(taps), "seconds": dict(seconds),
            "peak_bytes": int(peak_bytes), **others,
        } if (
            number == FORMAT
            and not others
            and all(each in [*SEVERITY] for each in (status, *operations.values()))
            and all(isinstance(each, str) for each in taps.values())
            and all(map(is_seconds, seconds.values()))
            and 0 <= peak_bytes <= MAX_BYTES
        ):  # fmt: skip
            return Record(**{name: value for name, value in data.items() if name != "format"})
        case _:
            raise FileError(f"{path}: not a baseline of format {FORMAT}: {REMEDY}")


def write_baseline(directory: Path, record: Record) -> None:
    """Make a run the baseline of its candidate."""
    folder = folder_of(directory, record.candidate)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "baseline.json", {"format": FORMAT, **asdict(record)})


def read_history(directory: Path, candidate: str) -> History:
    """Read the lines of a candidate's earlier runs, none where there was none; raises FileError for a broken one.

    A line of an older version holds how many cases ran, not which: no noise is taken from it.
    """
    path = folder_of(directory, candidate) / "history.jsonl"
    lines = path.read_bytes().splitlines() if path.exists() else []
    return tuple(parse_line(line, f"{path}, line {number}") for number, line in enumerate(lines, 1))


def parse_line(text: bytes, what: str) -> Mapping[str, Any]:
    """Parse a line of the history; raises FileError."""
    try:
        line: Mapping[str, Any] = parse_json(text)
    except ValueError:
        line = {}
    match line:
        case {
            "date": str(date), "cpu": str(), "seconds": seconds, "peak_bytes": int(peak_bytes),
            "cases": str(), "slowdown": float() | None as slowdown, "flagged": bool(),
        } if is_slowdown(slowdown):  # fmt: skip
            pass
        case {"date": str(date), "cpu": str(), "seconds": seconds, "peak_bytes": int(peak_bytes), "cases": int()}:
            pass
        case _:
            raise FileError(f"{what}: not the record of a run: {REMEDY}")
    if not (is_seconds(seconds) and 0 <= peak_bytes <= MAX_BYTES and is_date(date)):
        raise FileError(f"{what}: no time, memory or date of a run: {REMEDY}")
    return line


def is_seconds(value: Any) -> bool:
    """Return whether a value is a time that something took."""
    return type(value) in {int, float} and 0 <= value <= MAX_SECONDS


def is_slowdown(value: float | None) -> bool:
    """Return whether a value is a ratio of two times, or that there is none."""
    return value is None or 1 / MAX_SECONDS <= value <= MAX_SECONDS


def is_date(text: str) -> bool:
    """Return whether a text is a date of the history."""
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def append_history(directory: Path, candidate: str, line: Mapping[str, Any], *, afresh: bool = False) -> None:
    """Add the line of a run to a candidate's history, whole or not at all; runs at the same time wait for each other.

    What earlier runs left is read again, since another may have ended meanwhile. A history that cannot be read is a
    FileError, or begun `afresh`.
    """
    path = folder_of(directory, candidate) / "history.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            earlier = read_history(directory, candidate)
        except FileError:
            if not afresh:
                raise
            earlier = ()
        with whole_file(path) as file:
            file.writelines(f"{json.dumps(each)}\n".encode() for each in (*earlier, line))
