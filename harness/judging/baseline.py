"""A candidate against its own earlier run: bit-identical, changed within fences, or moved beyond; slower, or too fast.

A folder of baselines holds for every candidate `baseline.json`, which only `--update-baseline` replaces, and
`history.jsonl`, to which every run adds a line.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from grok_conformance.harness.cases.drawn import drawn_as
from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.formats.files import (
    MAX_REPORT_BYTES,
    FileError,
    parse_json,
    plain,
    read_json,
    whole_file,
    write_json,
)
from grok_conformance.harness.formats.tensors import digest, open_tensors
from grok_conformance.harness.golden.provenance import record_platform
from grok_conformance.harness.judging.verdict import PASSING, SEVERITY, CandidateVerdict, Status

FORMAT = 1

REMEDY = "write it again with --update-baseline"

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


@dataclass(frozen=True, kw_only=True)
class Regression:
    """How a run differs from the baseline.

    `within` and `beyond` are the operations, each with its compute dtype, with changed bits that pass, and that do not;
    `rerouted` the cases in which other experts were chosen. `flags` are reasons to look closer, `notes` what could not
    be compared; `history` the lines of all runs, this one last.
    """

    num_taps: int
    num_identical: int
    within: tuple[str, ...]
    beyond: tuple[str, ...]
    rerouted: tuple[str, ...]
    flags: tuple[str, ...]
    notes: tuple[str, ...]
    history: History

    @property
    def clean(self) -> bool:
        """Whether nothing calls for a closer look."""
        return not self.beyond and not self.flags


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


def conformance_digest(verdict: CandidateVerdict) -> str:
    """Return the sha256 of all that a conformance run found, times left out: what a benchmark result is earned under.

    Equal digests mean the same candidate, version, level, cases and figures.
    """
    cases = tuple(replace(case, seconds=None) for case in verdict.cases)
    found = plain(asdict(replace(verdict, cases=cases, seconds=0.0, powers=())))
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


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
            "platform": {"cpu": str()}, "operations": dict(operations), "taps": dict(), "seconds": dict(seconds),
            "peak_bytes": int(), **others,
        } if (
            number == FORMAT
            and not others
            and all(each in [*SEVERITY] for each in (status, *operations.values()))
            and all(isinstance(each, float | int) for each in seconds.values())
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
            "date": str(), "cpu": str(), "seconds": float() | int(), "peak_bytes": int(),
            "cases": str(), "slowdown": float() | None, "flagged": bool(),
        } | {"date": str(), "cpu": str(), "seconds": float() | int(), "peak_bytes": int(), "cases": int()}:  # fmt: skip
            return line
        case _:
            raise FileError(f"{what}: not the record of a run: {REMEDY}")


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


def line_of(record: Record, date: str, slowdown: float | None, *, flagged: bool) -> Mapping[str, Any]:
    """Return what the history keeps of a run, as JSON can hold it."""
    return {
        "date": date,
        "version": record.version,
        "status": record.status,
        "digest": record.digest,
        "cpu": record.platform["cpu"],
        "cases": cases_digest(record),
        "seconds": sum(record.seconds.values()),
        "slowdown": slowdown,
        "peak_bytes": record.peak_bytes,
        "flagged": flagged,
    }


def cases_digest(record: Record) -> str:
    """Return the sha256 of the ids of the cases that a run timed."""
    return hashlib.sha256(json.dumps(sorted(record.seconds)).encode()).hexdigest()


def compare_runs(old: Record, new: Record, earlier: History, date: str) -> Regression:
    """Return how a run differs from the baseline; `earlier` is the history before it, `date` its own."""
    shared = sorted(set(old.taps) & set(new.taps))
    changed = [key for key in shared if old.taps[key] != new.taps[key]]
    moved = list(dict.fromkeys(operation_of(key) for key in changed))
    failing = {name for name, status in new.operations.items() if status not in PASSING}
    factor, usual = slowdown(old, new), usual_slowdowns(new, earlier)
    flags = [*worse(old, new), *timing_flags(factor, usual), *memory_flags(old, new)]
    return Regression(
        num_taps=len(shared),
        num_identical=len(shared) - len(changed),
        within=tuple(name for name in moved if name not in failing),
        beyond=tuple(name for name in moved if name in failing),
        rerouted=tuple(dict.fromkeys(key.split(" call")[0] for key in changed if key.endswith("moe.expert_index"))),
        flags=tuple(flags),
        notes=tuple(uncompared(old, new, len(usual) + 1)),
        history=(*earlier, line_of(new, date, factor, flagged=bool(flags))),
    )


def operation_of(key: str) -> str:
    """Return the operation and compute dtype of a key of `Record.taps`, as `Record.operations` names them."""
    case, _, tap = key.partition(" call")
    return f"{split_tap(tap.partition('/')[2])[1]} {case.partition('/')[0].rpartition('.')[2]}"


def uncompared(old: Record, new: Record, num_runs: int) -> Iterator[str]:
    """Yield what of a run could not be compared with the baseline; `num_runs` tell how noisy its times are."""
    if old.suite != new.suite:
        yield f"the baseline is of golden set {old.suite}, this run of {new.suite}"
    if lost := len(set(old.taps) - set(new.taps)):
        yield f"{lost} taps of the baseline are not in this run"
    if old.platform != new.platform:
        yield "the baseline was made on another platform: times and memory are not compared"
        return
    if set(old.seconds) != set(new.seconds):
        yield "the baseline ran other cases: memory is not compared"
    if num_runs < MIN_RUNS:
        yield f"the noise of times is known from {MIN_RUNS} runs on: {num_runs} so far"


def worse(old: Record, new: Record) -> Iterator[str]:
    """Yield what has a worse status than in the baseline."""
    if SEVERITY[new.status] > SEVERITY[old.status]:
        yield f"the verdict was {old.status} and is {new.status}"
    for name, status in new.operations.items():
        if name in old.operations and SEVERITY[status] > SEVERITY[old.operations[name]]:
            yield f"{name} was {old.operations[name]} and is {status}"
    for name in sorted(set(old.operations) - set(new.operations)):
        yield f"{name} is no longer shown"


def slowdown(old: Record, new: Record) -> float | None:
    """Return the time of a run over that of the baseline in the cases of both, None where they do not compare."""
    shared = set(old.seconds) & set(new.seconds)
    before, after = (sum(each.seconds[case] for case in shared) for each in (old, new))
    return after / before if old.platform == new.platform and before and after else None


def usual_slowdowns(new: Record, earlier: History) -> list[float]:
    """Return the slowdowns of the earlier runs that ran the same cases on the same CPU, each against its baseline.

    A flagged run is left out: what it is flagged for would pass for noise in the next one. Each is a ratio, so that a
    slower baseline that was accepted makes times no noisier.
    """
    here = new.platform["cpu"], cases_digest(new)
    alike = (line for line in earlier if (line["cpu"], line.get("cases")) == here and not line["flagged"])
    return [line["slowdown"] for line in alike if line["slowdown"] is not None]


def timing_flags(factor: float | None, usual: Sequence[float]) -> Iterator[str]:
    """Yield whether a run is slower than the baseline by more than the noise of usual runs, or implausibly fast."""
    if factor is None:
        return
    if 1 / factor > IMPLAUSIBLE:
        yield f"{1 / factor:.3g} times as fast as the baseline: does it still compute?"
    if len(usual) >= MIN_RUNS - 1:
        noise = max(statistics.stdev(map(math.log, usual)), LEAST_NOISE)
        if math.log(factor) > NOISES * noise:
            yield f"{factor:.3g} times as slow as the baseline, noise allows {math.exp(NOISES * noise):.3g}"


def memory_flags(old: Record, new: Record) -> Iterator[str]:
    """Yield whether a run takes more memory than the baseline took for the same cases on the same platform."""
    if old.platform != new.platform or set(old.seconds) != set(new.seconds):
        return
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
