"""A candidate against its own earlier run: bit-identical, changed within fences, or moved beyond; slower, or too fast.

A folder of baselines holds for every candidate `baseline.json`, which only `--update-baseline` replaces, and
`history.jsonl`, to which every run adds a line.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.contract import split_tap
from harness.files import FileError, read_json, whole_file, write_json
from harness.provenance import record_platform
from harness.report.files import MAX_REPORT_BYTES, conformance_digest
from harness.tensors import digest, open_tensors
from harness.verdict import PASSING, SEVERITY, CandidateVerdict, Status

FORMAT = 1

MIN_RUNS = 4
"""Runs in the history from which the noise of timings is measured."""

NOISES = 4.0
"""How many standard deviations of the logarithm of the time a run may be slower than the baseline."""

LEAST_NOISE = 0.05
"""The least such deviation that is believed: a few runs may agree by chance."""

IMPLAUSIBLE = 5.0
"""A candidate that became so many times faster is suspected of no longer computing."""

MEMORY_RATIO = 1.25
"""How much more memory a run may take than the baseline; samples are coarse."""


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


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How a run differs from the baseline.

    `within` and `beyond` are the operations with changed bits that pass, and that do not; `rerouted` the cases in which
    other experts were chosen. `flags` are reasons to look closer, `notes` what could not be compared; `history` the
    lines of all runs, oldest first.
    """

    num_taps: int
    num_identical: int
    within: tuple[str, ...]
    beyond: tuple[str, ...]
    rerouted: tuple[str, ...]
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    history: tuple[Mapping[str, Any], ...]

    @property
    def clean(self) -> bool:
        """Whether nothing calls for a closer look."""
        return not self.beyond and not self.flags


def record_of(verdict: CandidateVerdict, answers: Path, suite: str) -> Record:
    """Return what is kept of a run, given the folder of its answers, one folder per job in it."""
    runs = [read_json(path) for path in sorted(answers.glob("*/run.json"))]
    return Record(
        candidate=verdict.name,
        version=verdict.version,
        suite=suite,
        digest=conformance_digest(verdict),
        status=verdict.status,
        platform=record_platform(),
        operations={f"{row.operation} {row.fprop_dtype}": row.status for row in verdict.operations},
        taps=dict(tap_digests(answers)),
        seconds={case.case: case.seconds for case in verdict.cases if case.seconds is not None},
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
    """Return whether a candidate has a baseline."""
    return (folder_of(directory, candidate) / "baseline.json").exists()


def read_baseline(directory: Path, candidate: str) -> Record:
    """Read a candidate's baseline; raises FileError where there is none."""
    path = folder_of(directory, candidate) / "baseline.json"
    if not has_baseline(directory, candidate):
        raise FileError(f"{path}: no baseline of {candidate} yet: write it with --update-baseline")
    data = read_json(path, MAX_REPORT_BYTES)
    if data.pop("format", None) != FORMAT:
        raise FileError(f"{path}: not a baseline of format {FORMAT}: write it again with --update-baseline")
    return Record(**data)


def write_baseline(directory: Path, record: Record) -> None:
    """Make a run the baseline of its candidate."""
    folder = folder_of(directory, record.candidate)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "baseline.json", {"format": FORMAT, **asdict(record)})


def add_history(directory: Path, record: Record, date: str) -> tuple[Mapping[str, Any], ...]:
    """Add a line to the history of a candidate, and return all of it."""
    path = folder_of(directory, record.candidate) / "history.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    line = {
        "date": date,
        "version": record.version,
        "status": record.status,
        "digest": record.digest,
        "cpu": record.platform["cpu"],
        "cases": len(record.seconds),
        "seconds": sum(record.seconds.values()),
        "peak_bytes": record.peak_bytes,
    }
    text = (path.read_text() if path.exists() else "") + json.dumps(line) + "\n"
    with whole_file(path) as file:
        file.write(text.encode())
    return tuple(json.loads(each) for each in text.splitlines())


def compare_runs(old: Record, new: Record, history: Sequence[Mapping[str, Any]]) -> Regression:
    """Return how a run differs from the baseline; `history` is that of all runs, this one last."""
    shared = sorted(set(old.taps) & set(new.taps))
    changed = [key for key in shared if old.taps[key] != new.taps[key]]
    failing = {name.split()[0] for name, status in new.operations.items() if status not in PASSING}
    moved = list(dict.fromkeys(split_tap(key.split(" call")[1].split("/", 1)[1])[1] for key in changed))
    flags = [*worse(old, new), *timing_flags(old, new, history), *memory_flags(old, new)]
    notes = []
    if old.suite != new.suite:
        notes.append(f"the baseline is of golden set {old.suite}, this run of {new.suite}")
    if lost := len(set(old.taps) - set(new.taps)):
        notes.append(f"{lost} taps of the baseline are not in this run")
    if old.platform != new.platform:
        notes.append("the baseline was made on another platform: times are not compared")
    elif len(timings(history)) < MIN_RUNS:
        notes.append(f"the noise of times is known from {MIN_RUNS} runs on: {len(timings(history))} so far")
    return Regression(
        num_taps=len(shared),
        num_identical=len(shared) - len(changed),
        within=tuple(name for name in moved if name not in failing),
        beyond=tuple(name for name in moved if name in failing),
        rerouted=tuple(dict.fromkeys(key.split(" call")[0] for key in changed if key.endswith("moe.expert_index"))),
        flags=tuple(flags),
        notes=tuple(notes),
        history=tuple(history),
    )


def worse(old: Record, new: Record) -> Iterator[str]:
    """Yield what has a graver status than in the baseline."""
    if SEVERITY[new.status] > SEVERITY[old.status]:
        yield f"the verdict was {old.status} and is {new.status}"
    for name, status in new.operations.items():
        if name in old.operations and SEVERITY[status] > SEVERITY[old.operations[name]]:
            yield f"{name} was {old.operations[name]} and is {status}"
    for name in sorted(set(old.operations) - set(new.operations)):
        yield f"{name} is no longer shown"


def timings(history: Sequence[Mapping[str, Any]]) -> list[float]:
    """Return the seconds of the runs that ran what the last one ran, on its CPU."""
    alike = [line for line in history if (line["cpu"], line["cases"]) == (history[-1]["cpu"], history[-1]["cases"])]
    return [line["seconds"] for line in alike if line["seconds"] > 0]


def timing_flags(old: Record, new: Record, history: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Yield whether a run is slower than the baseline by more than noise, or implausibly fast, in the same cases."""
    shared = set(old.seconds) & set(new.seconds)
    before, after = (sum(each.seconds[case] for case in shared) for each in (old, new))
    if old.platform != new.platform or not before or not after:
        return
    if before / after > IMPLAUSIBLE:
        yield f"{before / after:.3g} times as fast as the baseline: does it still compute?"
    earlier = timings(history)[:-1]
    if len(earlier) >= MIN_RUNS - 1:
        noise = max(statistics.stdev(map(math.log, earlier)), LEAST_NOISE)
        if math.log(after / before) > NOISES * noise:
            yield f"{after / before:.3g} times as slow as the baseline, noise allows {math.exp(NOISES * noise):.3g}"


def memory_flags(old: Record, new: Record) -> Iterator[str]:
    """Yield whether a run takes more memory than the baseline."""
    if old.peak_bytes and new.peak_bytes > MEMORY_RATIO * old.peak_bytes:
        yield f"{new.peak_bytes / 2**20:.0f} MiB of memory, the baseline took {old.peak_bytes / 2**20:.0f}"


def describe(regression: Regression) -> Iterator[str]:
    """Yield a comparison with the baseline in a few lines."""
    yield f"against the baseline: {regression.num_identical} of {regression.num_taps} taps bit for bit the same"
    if regression.within:
        yield f"changed within fences: {', '.join(regression.within)}"
    if regression.beyond:
        yield f"moved beyond fences: {', '.join(regression.beyond)}"
    if regression.rerouted:
        yield f"other experts chosen in {', '.join(regression.rerouted)}"
    yield from (f"look closer: {flag}" for flag in regression.flags)
    yield from regression.notes
