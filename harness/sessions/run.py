"""The main job: candidates run over golden cases as job folders, and are judged."""

from __future__ import annotations

import math
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from grok_conformance.harness.cases.case import Case
from grok_conformance.harness.checks.loaded_weights import WeightProblem, check_partition_specs, check_weights
from grok_conformance.harness.checks.operation_by_operation import call_sizes
from grok_conformance.harness.contract import LEVELS, split_tap, tap_names
from grok_conformance.harness.contract.taps import SPECS
from grok_conformance.harness.diagnosis.power import power_of_run
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import FixtureError, Golden, case_ids, read_case, read_preset, read_taps
from grok_conformance.harness.judging.judge import Group, HonestRuns, Judged, judge_candidate
from grok_conformance.harness.judging.verdict import CandidateVerdict, CaseVerdict, by_operation, level_of, missing_taps
from grok_conformance.harness.judging.waivers import Waiver, waivers_of
from grok_conformance.harness.running.answers import Answer, one_line, read_answer, read_weights
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import read_job, write_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.running.runner import run_jobs

NUM_CHILDREN = 2
"""Candidates that run at the same time; engines use several threads each."""

Progress = Callable[[str, str], None]
"""Called with a candidate's name and the id of every case it has answered."""


@dataclass(frozen=True)
class Judgement:
    """A candidate's verdict, and where its answers lie."""

    verdict: CandidateVerdict
    folder: Path


def read_groups(golden: Golden, pattern: str = "*") -> tuple[Group, ...]:
    """Read the golden cases that a glob pattern matches, grouped by preset and compute dtype; raises FixtureError."""
    cases = [read_case(golden, case_id) for case_id in case_ids(golden, pattern)]
    presets = {name: read_preset(golden, name) for name in sorted({case.preset for case in cases})}
    keys = sorted({(case.preset, case.fprop_dtype) for case in cases})
    return tuple(
        Group(
            presets[preset],
            dtype,
            tuple(case for case in cases if (case.preset, case.fprop_dtype) == (preset, dtype)),
            lambda case_id: read_taps(golden, case_id),
        )
        for preset, dtype in keys
    )


def run_size(groups: Sequence[Group]) -> int:
    """Return how many elements a run over some groups compares: the number of tests, which sets λ."""
    return sum(
        math.prod(call_sizes(config, case, call)[axis] for axis in SPECS[split_tap(tap)[1]].axes)
        for group in groups
        for config in [group.preset.config]
        for case in group.cases
        for call in range(len(case.calls))
        for tap in tap_names(config)
    )


def num_calls(case: Case) -> int:
    """Return how many calls a case makes."""
    return len(case.calls)


def write_jobs(groups: Sequence[Group], suite: str, folder: Path) -> tuple[Path, ...]:
    """Write one job folder per group and return them in order.

    Whether tapping disturbs an engine is asked in one case per compute dtype, the one with the most calls: a compiled
    engine compiles each program once more for it.
    """
    longest = {
        g.fprop_dtype: max((c for h in groups if h.fprop_dtype == g.fprop_dtype for c in h.cases), key=num_calls)
        for g in groups
    }
    untapped = {case.id for case in longest.values()}
    paths = []
    for group in groups:
        path = folder / f"{group.preset.name}.{group.fprop_dtype}"
        path.mkdir(parents=True)
        write_job(path, suite, group.preset, group.cases, untapped=untapped)
        paths.append(path)
    return tuple(paths)


def run_candidates(
    candidates: Sequence[Candidate],
    groups: Sequence[Group],
    suite: str,
    folder: Path,
    limits: Limits,
    on_progress: Progress = lambda _name, _case: None,
    waivers: Sequence[Waiver] = (),
) -> list[Judgement]:
    """Run candidates over groups below a folder, each job in a child process, and judge each one as it ends.

    Every candidate is handed a copy of the jobs: what it makes of them is nobody else's.
    """
    jobs = write_jobs(groups, suite, folder / "jobs")
    described = [read_job(job) for job in jobs]
    honest_runs: HonestRuns = {}
    size = run_size(groups)

    def answer_folders(candidate: Candidate) -> list[Path]:
        return [folder / "answers" / candidate.name.replace("/", "_") / job.name for job in jobs]

    def run(candidate: Candidate) -> tuple[float, list[Mapping[str, Answer]]]:
        began = time.monotonic()
        outs = answer_folders(candidate)
        with tempfile.TemporaryDirectory() as scratch:
            copies = [Path(shutil.copytree(job, Path(scratch) / job.name)) for job in jobs]
            pairs = list(zip(copies, outs, strict=True))
            records = run_jobs(candidate, pairs, limits, lambda case: on_progress(candidate.name, case))
        answers: list[Mapping[str, Answer]] = [
            read_answer(out, job, record.unanswered) for out, job, record in zip(outs, described, records, strict=True)
        ]
        return time.monotonic() - began, answers

    judgements = []
    with ThreadPoolExecutor(NUM_CHILDREN) as pool:
        for candidate, (seconds, answers) in zip(candidates, pool.map(run, candidates), strict=True):
            known = waivers_of(waivers, candidate.name)
            judged = judge_candidate(groups, answers, size, honest_runs, known)
            weights = judge_weights(groups, answer_folders(candidate))
            verdict = summarise(candidate.name, groups, answers, judged, seconds, weights, known)
            judgements.append(Judgement(verdict, folder / "answers" / candidate.name.replace("/", "_")))
    return judgements


def judge_weights(groups: Sequence[Group], outs: Sequence[Path]) -> tuple[WeightProblem, ...]:
    """Compare the weights and the sharding that a candidate shows in its answer folders with the stored ones."""
    found: list[WeightProblem] = []
    for group, out in zip(groups, outs, strict=True):
        name, stored = group.preset.name, group.preset.weights
        try:
            shown, specs = read_weights(out)
            found += check_weights(name, replace(group.preset.config, fprop_dtype=group.fprop_dtype), stored, shown)
            found += [] if specs is None else check_partition_specs(name, stored, specs)
        except (FileError, OSError) as error:
            found.append(WeightProblem(preset=name, tensor=out.name, problem=one_line(str(error))))
    return tuple(found)


def summarise(
    name: str,
    groups: Sequence[Group],
    answers: Sequence[Mapping[str, Answer]],
    judged: Sequence[Judged],
    seconds: float,
    weights: tuple[WeightProblem, ...] = (),
    waivers: Sequence[Waiver] = (),
) -> CandidateVerdict:
    """Gather the verdicts on a candidate's groups into one; `waivers` are its known deviations."""
    cases = tuple(verdict for each in judged for verdict in each.verdicts)
    dtypes = {case.id: group.fprop_dtype for group in groups for case in group.cases}
    chosen = {
        (group.fprop_dtype, operation): each.ways.describe(operation)
        for group, each in zip(groups, judged, strict=True)
        for operation in SPECS
    }
    diagnoses = {
        (group.fprop_dtype, operation): diagnosis
        for group, each in zip(groups, judged, strict=True)
        for operation, diagnosis in each.diagnoses.items()
    }
    infos = [answer.info for each in answers for answer in each.values() if answer.info is not None]
    levels = [level_of(infos[0].taps, group.preset.config) for group in groups] if infos else ["none"]
    level = min(levels, key=("none", *LEVELS).index)
    hidden = [missing_taps(infos[0].taps, group.preset.config, level) for group in groups] if infos else []
    return CandidateVerdict(
        name=name,
        version=infos[0].version if infos else "",
        level=level,
        weights=weights,
        next_taps=tuple(dict.fromkeys(tap for taps in hidden for tap in taps)),
        cases=cases,
        operations=by_operation(cases, dtypes, chosen, diagnoses),
        seconds=seconds,
        powers=() if level == "none" else power_of_run(level, dtypes.items()),
        waivers=tuple(each for each in waivers if any(each.name in case.waived for case in cases)),
    )


def refuse(name: str, groups: Sequence[Group], reason: str) -> CandidateVerdict:
    """Return the verdict on a candidate that cannot be run here: unsupported in every case, for one reason."""
    cases = [CaseVerdict(case=case.id, status="unsupported", reason=reason) for group in groups for case in group.cases]
    return CandidateVerdict(name=name, version="", level="none", cases=tuple(cases), operations=(), seconds=0.0)


def judge_folder(golden: Golden, job_dir: Path, out_dir: Path, waivers: Sequence[Waiver] = ()) -> CandidateVerdict:
    """Judge answers written elsewhere; raises FixtureError for a job that is not of this golden set.

    `job_dir` is one job and `out_dir` the folder that a program left for it, or each holds one such folder per job,
    under the same names.
    """
    pairs = job_pairs(job_dir, out_dir)
    groups = [group_of_job(golden, job) for job, _ in pairs]
    answers = [read_answer(out, read_job(job)) for job, out in pairs]
    names = [answer.info.name for each in answers for answer in each.values() if answer.info is not None]
    name = names[0] if names else out_dir.name
    known = waivers_of(waivers, name)
    judged = judge_candidate(groups, answers, run_size(groups), {}, known)
    weights = judge_weights(groups, [out for _, out in pairs])
    return summarise(name, groups, answers, judged, 0.0, weights, known)


def job_pairs(job_dir: Path, out_dir: Path) -> list[tuple[Path, Path]]:
    """Return (job, answers) folders: the two given, or those of the same name inside them."""
    jobs = sorted(path.parent for path in job_dir.glob("*/job.json"))
    return [(job, out_dir / job.name) for job in jobs] or [(job_dir, out_dir)]


def group_of_job(golden: Golden, job_dir: Path) -> Group:
    """Return the golden cases of a job; raises FixtureError where the golden set does not hold them."""
    job = read_job(job_dir)
    if job.suite != golden.manifest.suite:
        raise FixtureError(
            f"{job_dir}: made from suite {job.suite}, but {golden.directory} holds {golden.manifest.suite}: "
            "write the job again"
        )
    wanted = [case.id for case in job.cases]
    for group in read_groups(golden):
        cases = tuple(case for case in group.cases if case.id in wanted)
        if (group.preset.name, group.fprop_dtype) == (job.preset, job.fprop_dtype) and len(cases) == len(wanted):
            return replace(group, cases=cases)
    raise FixtureError(f"{job_dir}: names cases that {golden.directory} does not hold: write the job again")
