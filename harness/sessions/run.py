"""The main job: candidates run over golden cases as job folders, and are judged."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.groups import Group, group_of_job, job_pairs, num_calls, run_size
from grok_conformance.harness.judging.judge import HonestRuns, judge_candidate
from grok_conformance.harness.judging.narrowing import Narrow, judge_as_asked, narrowed
from grok_conformance.harness.judging.summary import judge_weights, summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver, waivers_of
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import read_job, write_job
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
    narrow: Narrow = Narrow(),  # noqa: B008 - frozen
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
            judged = judge_as_asked(groups, answers, size, honest_runs, narrow, known)
            weights = judge_weights(groups, answer_folders(candidate))
            verdict = summarise(candidate.name, groups, answers, judged, seconds, weights, known)
            answered = folder / "answers" / candidate.name.replace("/", "_")
            evidence = evidence_of(groups, answers, judged)
            judgements.append(Judgement(narrowed(verdict, narrow), answered, evidence, size))
    return judgements


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
