"""The main job: candidates run over golden cases as job folders, and are judged."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.groups import (
    Group,
    group_of_job,
    job_pairs,
    run_size,
    with_one_sweep,
    with_optional,
)
from grok_conformance.harness.judging.judge import HonestRuns, judge_candidate
from grok_conformance.harness.judging.memory import with_memory
from grok_conformance.harness.judging.narrowing import Narrow, judge_as_asked, narrowed
from grok_conformance.harness.judging.reruns import need_replay, with_causes, with_reruns
from grok_conformance.harness.judging.summary import judge_weights, summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver, waivers_of
from grok_conformance.harness.running.answers import Answer, one_line, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import Job, read_job, write_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.running.runner import run_jobs
from grok_conformance.harness.sessions.dumping import CaseEvidence, evidence_of

NUM_CHILDREN = 2
"""Candidates that run at the same time; engines use several threads each."""

Progress = Callable[[str, str], None]
"""Called with a candidate's name and the id of every case it has answered."""


@dataclass(frozen=True)
class Judgement:
    """A candidate's verdict, where its answers lie, and what they show in a run of so many elements."""

    verdict: CandidateVerdict
    folder: Path
    evidence: CaseEvidence
    num_elements: int


def write_jobs(groups: Sequence[Group], suite: str, folder: Path) -> tuple[Path, ...]:
    """Write one job folder per group and return them in order."""
    paths = tuple(folder / name for name in job_names(groups))
    for path, group in zip(paths, groups, strict=True):
        path.mkdir(parents=True)
        write_job(path, suite, group.preset, group.cases)
    return paths


def job_names(groups: Sequence[Group]) -> list[str]:
    """Return the name of each group's job: its preset and compute dtype, and whether one before has other weights."""
    names: list[str] = []
    for group in groups:
        name = f"{group.preset.name}.{group.fprop_dtype}"
        names.append(f"{name}.reweighted" if name in names else name)
    return names


def run_candidates(
    candidates: Sequence[Candidate],
    groups: Sequence[Group],
    suite: str,
    folder: Path,
    limits: Limits,
    on_progress: Progress = lambda _name, _case: None,
    waivers: Sequence[Waiver] = (),
    narrow: Narrow = Narrow(),  # noqa: B008 - frozen
) -> Iterator[Judgement]:
    """Run candidates over groups below a folder, each job in a child process, and yield the judgement on each.

    One is judged as soon as it has ended, while others still run; what its answers show is let go of before the next.
    Every candidate is handed a copy of the jobs: what it makes of them, and of the machine, is nobody else's. One that
    fails in some runs of a case and not in others is run once more from the start, which tells history from randomness.
    """
    jobs = dict(zip(map(id, groups), write_jobs(groups, suite, folder / "jobs"), strict=True))
    honest_runs: HonestRuns = {}
    folders = answer_folders(folder / "answers", [candidate.name for candidate in candidates])

    def run(candidate: Candidate) -> tuple[float, list[Mapping[str, Answer]]]:
        began = time.monotonic()
        asked = [jobs[id(group)] for group in groups_for(candidate, groups)]
        outs = [folders[candidate.name] / job.name for job in asked]
        answers = ask(candidate, asked, outs, limits, lambda case: on_progress(candidate.name, case))
        return time.monotonic() - began, answers

    with ThreadPoolExecutor(NUM_CHILDREN) as pool, setting(limits.stop):
        for candidate, (seconds, answers) in zip(candidates, pool.map(run, candidates), strict=True):
            own = groups_for(candidate, groups)
            size = run_size(own)
            known = waivers_of(waivers, candidate.name)
            judged = judge_as_asked(own, answers, size, honest_runs, narrow, known)
            if not narrow:
                judged = with_reruns(own, answers, judged, size, honest_runs, known)
            asked = [jobs[id(group)] for group in own]
            if need_replay(judged):
                with scratch_folder() as scratch:
                    replayed = ask(candidate, asked, [scratch / job.name for job in asked], limits)
                    judged = with_causes(judged, answers, replayed)
            judged = with_memory(judged, own, answers)
            weights = judge_weights(own, [folders[candidate.name] / job.name for job in asked])
            verdict = summarise(candidate.name, own, answers, judged, seconds, weights, known)
            yield Judgement(narrowed(verdict, narrow), folders[candidate.name], evidence_of(own, answers, judged), size)


def groups_for(candidate: Candidate, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups that a candidate is asked: one that compiles anew for every shape has one sweep each time."""
    return with_one_sweep(groups) if candidate.compiles else tuple(groups)


def answer_folders(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    """Return a folder of its own for each candidate's answers, by name; names that would share one are numbered."""
    found: dict[str, Path] = {}
    for name in names:
        plain = name.replace("/", "_")
        numbered = (plain if number == 1 else f"{plain}.{number}" for number in itertools.count(1))
        found[name] = next(path for each in numbered if (path := folder / each) not in found.values())
    return found


@contextlib.contextmanager
def setting(stop: threading.Event) -> Iterator[None]:
    """Set an event when the block ends, so that no candidate runs on after an error or Ctrl-C."""
    try:
        yield
    finally:
        stop.set()


def ask(
    candidate: Candidate,
    jobs: Sequence[Path],
    outs: Sequence[Path],
    limits: Limits,
    on_progress: Callable[[str], None] = lambda _case: None,
) -> list[Mapping[str, Answer]]:
    """Return a candidate's answers to copies of some job folders, written to as many folders.

    What the machine refuses meanwhile (a folder replaced, a disk full, a program that cannot be started) is an error of
    this candidate in every case.
    """
    described = [read_job(job) for job in jobs]
    try:
        with scratch_folder() as scratch:
            copies = [Path(shutil.copytree(job, scratch / job.name)) for job in jobs]
            records = run_jobs(candidate, list(zip(copies, outs, strict=True)), limits, on_progress)
    except (FileError, OSError, RecursionError) as error:
        return [errors(job, one_line(str(error))) for job in described]
    return [read_answer(out, job, record.unanswered) for out, job, record in zip(outs, described, records, strict=True)]


def errors(job: Job, reason: str) -> dict[str, Answer]:
    """Return an error in every case of a job, for one reason."""
    return {case.id: Answer(status="error", reason=reason) for case in job.cases}


def judge_folder(golden: Golden, job_dir: Path, out_dir: Path, waivers: Sequence[Waiver] = ()) -> CandidateVerdict:
    """Judge answers written elsewhere; raises FixtureError for a job that is not of this golden set.

    `job_dir` is one job and `out_dir` the folder that a program left for it, or each holds one such folder per job,
    under the same names.
    """
    pairs = job_pairs(job_dir, out_dir)
    answers = [read_answer(out, read_job(job)) for job, out in pairs]
    names = [answer.info.name for each in answers for answer in each.values() if answer.info is not None]
    return judge_pairs(golden, pairs, names[0] if names else out_dir.name, waivers)


def judge_pairs(
    golden: Golden, pairs: Sequence[tuple[Path, Path]], name: str, waivers: Sequence[Waiver] = ()
) -> CandidateVerdict:
    """Judge the answers of one candidate in (job, answers) folders; raises FixtureError as `judge_folder` does."""
    groups = with_optional([group_of_job(golden, job) for job, _ in pairs])
    answers = [read_answer(out, read_job(job)) for job, out in pairs]
    known = waivers_of(waivers, name)
    size, honest_runs = run_size(groups), HonestRuns()
    judged = judge_candidate(groups, answers, size, honest_runs, known)
    judged = with_causes(with_reruns(groups, answers, judged, size, honest_runs, known), answers, None)
    judged = with_memory(judged, groups, answers)
    weights = judge_weights(groups, [out for _, out in pairs])
    return summarise(name, groups, answers, judged, 0.0, weights, known)
