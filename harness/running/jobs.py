"""Job folders: all that a candidate needs to answer the cases of one preset in one dtype, and nothing expected.

`harness/PROTOCOL.md` describes the folder for authors of programs in any language.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

from grok_conformance.harness.cases.case import CallKind, Case, Preset, input_tensors, tap_key
from grok_conformance.harness.cases.reruns import RERUNS, Rerun, reruns_of
from grok_conformance.harness.contract import DTYPES, LanguageModelConfig, select_taps, tap_names
from grok_conformance.harness.formats.files import FileError, read_json, write_json
from grok_conformance.harness.formats.schema import validate
from grok_conformance.harness.formats.tensors import write_tensors

FORMAT = 1
UNTAPPED = next(rerun.taps for rerun in RERUNS if rerun.name == "untapped")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class JobCase:
    """One case of a job; its answer goes to the folder `folder` of the answers.

    `taps` are the taps wanted of every call, `untapped` those of the run that taps nothing else, `reruns` the names of
    all further runs. `preload` tells whether `inputs` (a path within the job folder) holds a cache to start from.
    """

    id: str
    folder: str
    inputs: str
    calls: tuple[CallKind, ...]
    preload: bool
    taps: tuple[str, ...]
    untapped: tuple[str, ...] = ()
    reruns: tuple[str, ...] = ()

    def keys(self, taps: Collection[str]) -> frozenset[str]:
        """Return the names under which these taps of all calls are stored."""
        return frozenset(tap_key(call, tap) for call in range(len(self.calls)) for tap in taps)

    def rerun_keys(self, rerun: Rerun) -> frozenset[str]:
        """Return the names under which the taps of a further run are stored."""
        patterns = rerun.taps_by_call(len(self.calls))
        return frozenset(
            tap_key(call, tap) for call, wanted in enumerate(patterns) for tap in select_taps(self.taps, wanted)
        )


@dataclass(frozen=True)
class Job:
    """What `job.json` holds: cases of one preset in one dtype; `suite` is the version of the golden suite."""

    suite: str
    preset: str
    fprop_dtype: str
    cases: tuple[JobCase, ...]


def write_job(
    folder: Path,
    suite: str,
    preset: Preset,
    cases: Sequence[Case],
    taps: Collection[str] | None = None,
    reruns: Collection[str] | None = None,
) -> Job:
    """Write a job folder and return what its `job.json` holds.

    `taps` are glob patterns of the taps wanted of every case, None for all. `reruns` are the names of the further runs
    wanted, None for all that a case can have. Raises ValueError for cases that do not share the preset and one
    fprop_dtype.
    """
    kinds = {(case.preset, case.fprop_dtype) for case in cases}
    if len(kinds) != 1 or cases[0].preset != preset.name:
        raise ValueError(f"a job of preset {preset.name} cannot hold cases of {sorted(kinds)}: one preset, one dtype")
    config = replace(preset.config, fprop_dtype=cases[0].fprop_dtype)
    names = select_taps(tap_names(config), taps)
    job = Job(
        suite,
        preset.name,
        config.fprop_dtype,
        tuple(job_case_of(i, case, names, reruns) for i, case in enumerate(cases)),
    )
    (folder / "inputs").mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", config.to_json(), lasting=False)
    write_tensors(folder / "weights.safetensors", preset.weights, lasting=False)
    for job_case, case in zip(job.cases, cases, strict=True):
        write_tensors(folder / job_case.inputs, input_tensors(case), lasting=False)
    _write_description(folder, job)
    return job


def link_job(job_dir: Path, job: Job, folder: Path) -> None:
    """Write a job folder for some cases of another job; everything but `job.json` is a link to that job's files."""
    folder.mkdir()
    for name in ("config.json", "weights.safetensors", "inputs"):
        (folder / name).symlink_to((job_dir / name).resolve())
    _write_description(folder, job)


def read_job(folder: Path) -> Job:
    """Read the `job.json` of a job folder; raises FileError for one that is absent, malformed or of another format."""
    path = folder / "job.json"
    data = read_json(path)
    try:
        if data["format"] != FORMAT:
            raise FileError(f"{path}: format {data['format']!a} is not {FORMAT}: write the job again with this harness")
        job = Job(data["suite"], data["preset"], data["fprop_dtype"], tuple(_parse_case(row) for row in data["cases"]))
        _check(job)
    except FileError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise FileError(f"{path}: no job description ({error!a}): write the job again") from None
    return job


def read_config(folder: Path) -> LanguageModelConfig:
    """Read the configuration of a job folder; raises FileError."""
    path = folder / "config.json"
    data = read_json(path)
    try:
        validate(data, "preset")
        return LanguageModelConfig.from_json(data)
    except (OverflowError, ValueError) as error:
        raise FileError(f"{path}: {error}: write the job again") from None


def job_case_of(index: int, case: Case, taps: tuple[str, ...], reruns: Collection[str] | None) -> JobCase:
    """Return how a job describes its case number `index`; `reruns` are the further runs wanted, None for all."""
    possible = [rerun for rerun in reruns_of(len(case.calls)) if select_taps(taps, rerun.last_taps)]
    asked = tuple(rerun.name for rerun in possible if reruns is None or rerun.name in reruns)
    name = f"{index:03d}-" + re.sub(r"[^A-Za-z0-9_-]+", "-", case.id.removeprefix(f"{case.preset}/"))
    return JobCase(
        id=case.id,
        folder=name,
        inputs=f"inputs/{name}.safetensors",
        calls=tuple(call.kind for call in case.calls),
        preload=case.preload is not None,
        taps=taps,
        untapped=select_taps(taps, UNTAPPED) if "untapped" in asked else (),
        reruns=asked,
    )


def _write_description(folder: Path, job: Job) -> None:
    rows = [{**asdict(case), "calls": [{"kind": kind} for kind in case.calls]} for case in job.cases]
    write_json(folder / "job.json", {"format": FORMAT, **asdict(job), "cases": rows}, lasting=False)


def _parse_case(row: dict[str, Any]) -> JobCase:
    calls = tuple(call["kind"] for call in row["calls"])
    lists = {name: tuple(row[name]) for name in ("taps", "untapped", "reruns") if name in row}
    fields: dict[str, Any] = row | lists | {"calls": calls}
    return JobCase(**fields)


def _check(job: Job) -> None:
    strings = [job.suite, job.preset, job.fprop_dtype]
    for case in job.cases:
        strings += [case.id, case.folder, case.inputs, *case.taps, *case.untapped, *case.reruns]
        if not _PLAIN_NAME.fullmatch(case.folder) or case.inputs != f"inputs/{case.folder}.safetensors":
            raise ValueError(f"{case.folder}: not the name of a folder")
        if not set(case.calls) <= set(get_args(CallKind)) or not isinstance(case.preload, bool):
            raise ValueError(f"{case.id}: calls or preload")
    if not all(isinstance(string, str) for string in strings):
        raise TypeError("a name is not a string")
    if job.fprop_dtype not in DTYPES:
        raise ValueError(f"fprop_dtype {job.fprop_dtype}")
    if not job.cases or len({case.id for case in job.cases} | {case.folder for case in job.cases}) != 2 * len(
        job.cases
    ):
        raise ValueError("no cases, or one given twice")
