"""Answer folders: what a candidate wrote for a job, read without trusting any of it.

No link is followed, every header is checked before a value is touched, and nothing that a candidate may have written
raises: a case without a usable answer has the status that says so. Dtypes and shapes of taps are the checks' business.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from grok_conformance.harness.cases.reruns import RERUNS
from grok_conformance.harness.contract import (
    Array,
    CandidateInfo,
)
from grok_conformance.harness.formats.files import ABSENT, FileError, plain_path, read_json
from grok_conformance.harness.formats.tensors import TensorFile, digest, open_tensors
from grok_conformance.harness.running.info import is_strings, one_line, read_info
from grok_conformance.harness.running.jobs import Job, JobCase

Status = Literal["answered", "unsupported", "error", "missing"]

MAX_RESULT_BYTES = 4 * 2**20
MAX_SECONDS = 1e9

LOADED, DEQUANTIZED = "loaded/", "dequantized/"
"""What stands before a stored name in weights.safetensors: as the model holds it; as `dequantize` returns it."""

NO_TENSORS = TensorFile(Path(), {}, np.empty(0, np.uint8))


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What a candidate gave in a further run of a case: the sha256 of its taps, and their values where it wrote them.

    A status other than `answered` says with its reason that the run failed.
    """

    status: Status = "answered"
    reason: str = ""
    digests: Mapping[str, str] = field(default_factory=dict)
    taps: Mapping[str, Array] = field(default_factory=lambda: NO_TENSORS)

    def digest_of(self, key: str) -> str | None:
        """Return the sha256 of a tap in this run, None where the candidate gave neither it nor the tap."""
        return self.digests.get(key) or (digest(self.taps[key]) if key in self.taps else None)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A candidate's answer to one case.

    `taps` holds only what was wanted, by `call0/TAP`; `reruns` what the further runs gave, by the rerun's name, without
    those that were not made. `extra` names what was written without being wanted. `seconds` is the time of the first
    run as measured by the candidate.
    """

    status: Status
    reason: str = ""
    info: CandidateInfo | None = None
    taps: Mapping[str, Array] = field(default_factory=lambda: NO_TENSORS)
    reruns: Mapping[str, Repeated] = field(default_factory=dict)
    asked: tuple[tuple[str, ...], ...] | None = None
    extra: tuple[str, ...] = ()
    seconds: float | None = None


def read_answer(out_dir: Path, job: Job, unanswered: Mapping[str, Answer] | None = None) -> dict[str, Answer]:
    """Return the answer to every case of a job, by case id.

    `unanswered` is what the runner found of the cases without a result, None for what it left in `run.json`.
    """
    try:
        unanswered = _read_unanswered(out_dir) if unanswered is None else unanswered
    except (FileError, OSError) as error:
        return {case.id: Answer(status="error", reason=one_line(str(error))) for case in job.cases}
    return {case.id: _read_case(out_dir, case, unanswered.get(case.id)) for case in job.cases}


def read_weights(out_dir: Path) -> tuple[Mapping[str, Array], Mapping[str, object] | None]:
    """Return the tensors of weights.safetensors and the object in partition_specs.json; nothing where they are absent.

    Raises FileError for files that hold something else.
    """
    path = _plain_file(out_dir, "weights.safetensors")
    weights = NO_TENSORS if path is None else open_tensors(path)
    path = _plain_file(out_dir, "partition_specs.json")
    specs = None if path is None else read_json(path, MAX_RESULT_BYTES)
    if not (specs is None or isinstance(specs, dict)):
        raise FileError(f"{path}: must be an object: a list of mesh axes by parameter")
    return weights, specs


def make_folders(out_dir: Path, job: Job) -> None:
    """Make an answer folder and those of its cases, since standard C makes none; what is there stays.

    A folder that a program replaced or barred is made or opened again; raises FileError where one above it has become a
    link, which would lead whatever is written elsewhere.
    """
    if out_dir.parent.resolve() != out_dir.parent.absolute():
        raise FileError(f"{out_dir.parent}: a link has taken the place of a folder above the answers")
    if out_dir.is_symlink() or out_dir.is_file():
        out_dir.unlink()
    out_dir.mkdir(parents=True, exist_ok=True)
    out_dir.chmod(stat.S_IRWXU | out_dir.stat().st_mode)
    for folder in (out_dir / case.folder for case in job.cases):
        with contextlib.suppress(FileExistsError):  # or a link, which is refused when it is read
            folder.mkdir()
        if not folder.is_symlink():
            folder.chmod(stat.S_IRWXU | folder.stat().st_mode)


def unrepeated(
    answer: Answer, rerun: str, keys: Collection[str], digests: dict[str, str] | None = None
) -> tuple[str, ...]:
    """Return which of these taps a further run did not give bit for bit as the first, those absent from it included.

    `digests` are those of the first run that are known; what is worked out is added to them.
    """
    repeated = answer.reruns.get(rerun, Repeated())
    first = {} if digests is None else digests
    first |= {key: digest(answer.taps[key]) for key in keys if key not in first}
    return tuple(key for key in keys if repeated.digest_of(key) != first[key])


def is_answered(out_dir: Path, case: JobCase) -> bool:
    """Return whether a case has a result, which is written last; a link or a pipe in its place is one, a bad one."""
    folder = out_dir / case.folder
    return not os.path.islink(folder) and os.path.lexists(folder / "result.json")  # noqa: PTH114 - never raises


def _read_case(out_dir: Path, case: JobCase, unanswered: Answer | None) -> Answer:
    try:
        path = _plain_file(out_dir, case.folder, "result.json")
        if path is None:
            return unanswered or Answer(status="missing", reason=f"{case.folder}/result.json was not written")
        result = _read_result(path)
        if result.status != "answered":
            return result
        info = read_info(_plain_file(out_dir, "info.json"))
        taps, extra = _read_tensors(out_dir, case, "taps.safetensors", case.keys(case.taps))
        if taps is None:
            raise FileError(f"{case.folder}/taps.safetensors was not written although the status is answered")
        reruns, more = _read_reruns(out_dir, case, result.reruns)
        return replace(result, info=info, taps=taps, reruns=reruns, extra=extra + more)
    except (FileError, OSError) as error:
        return Answer(status="error", reason=one_line(str(error)))


def _read_reruns(
    out_dir: Path, case: JobCase, told: Mapping[str, Repeated]
) -> tuple[dict[str, Repeated], tuple[str, ...]]:
    """Return the further runs that were made, `told` being those that result.json has, and what nobody asked for."""
    found: dict[str, Repeated] = {}
    extra: tuple[str, ...] = ()
    for rerun in RERUNS:
        repeated = told.get(rerun.name)
        path = _plain_file(out_dir, case.folder, f"{rerun.name}.json")
        if rerun.after_all and path is not None:
            repeated = _read_repeated(path)
        wanted = case.rerun_keys(rerun) if rerun.name in case.reruns else ()
        taps, more = _read_tensors(out_dir, case, f"{rerun.name}.safetensors", wanted)
        extra += more
        if rerun.name in case.reruns and not (repeated is None and taps is None):
            repeated = repeated or Repeated()
            found[rerun.name] = repeated if taps is None else replace(repeated, taps=taps)
    return found, extra


def _read_repeated(path: Path) -> Repeated:
    """Read the file of a run after all others; one that only says that it began did not end."""
    match read_json(path, MAX_RESULT_BYTES):
        case {"status": "answered", "digests": digests} if is_strings(digests):
            return Repeated(digests=digests)
        case {"status": ("unsupported" | "error") as status, "reason": str(reason)}:
            return Repeated(status=status, reason=one_line(reason))
        case {"status": "begun"}:
            return Repeated(status="error", reason="the candidate crashed or hung")
        case _:
            raise FileError(f"{path}: status must be begun, answered, unsupported or error")


def _plain_file(out_dir: Path, *parts: str) -> Path | None:
    """Return a file below the answer folder, None where there is none; raises FileError for a link or a non-file."""
    path, problem = plain_path(out_dir, *parts)
    if problem and problem != ABSENT:
        raise FileError(f"{path}: {problem}; answers must be plain files")
    return None if problem else path


def _read_tensors(
    out_dir: Path, case: JobCase, name: str, wanted: Collection[str]
) -> tuple[TensorFile | None, tuple[str, ...]]:
    path = _plain_file(out_dir, case.folder, name)
    if path is None:
        return None, ()
    file = open_tensors(path, on_disk=True)
    extra = tuple(f"{name}: {key}" for key in file if key not in wanted)
    return replace(file, headers={key: header for key, header in file.headers.items() if key in wanted}), extra


def _read_result(path: Path) -> Answer:
    data = read_json(path, MAX_RESULT_BYTES)
    match data:
        case {"status": ("answered" | "unsupported" | "error") as status}:
            reason, seconds, reruns = data.get("reason", ""), data.get("seconds"), data.get("reruns", {})
        case _:
            raise FileError(f"{path}: status must be answered, unsupported or error")
    if "repeat" in data and isinstance(reruns, dict):
        reruns = {"again": data["repeat"], **reruns}
    if not (isinstance(reruns, dict) and all(is_strings(digests) for digests in reruns.values())):
        raise FileError(f"{path}: repeat, and what reruns holds, must be objects of strings")
    if not isinstance(reason, str):
        raise FileError(f"{path}: reason must be a string")
    if seconds is not None and not (type(seconds) in {int, float} and 0 <= seconds <= MAX_SECONDS):
        raise FileError(f"{path}: seconds must be a number from 0 to {MAX_SECONDS:g}")
    repeated = {name: Repeated(digests=digests) for name, digests in reruns.items()}
    return Answer(status=status, reason=one_line(reason), reruns=repeated, seconds=seconds)


def _read_unanswered(out_dir: Path) -> dict[str, Answer]:
    """Return what the runner recorded of the cases that the candidate left without a result."""
    path = _plain_file(out_dir, "run.json")
    data = {"unanswered": {}} if path is None else read_json(path, MAX_RESULT_BYTES)
    match data:
        case {"unanswered": dict(rows)}:
            return {case: _unanswered(path, row) for case, row in rows.items()}
        case _:
            raise FileError(f"{path}: no record of a run")


def _unanswered(path: Path | None, row: Any) -> Answer:
    match row:
        case {"status": ("unsupported" | "error" | "missing") as status, "reason": str(reason)}:
            return Answer(status=status, reason=one_line(reason))
        case _:
            raise FileError(f"{path}: no record of a run")
