"""The main job: candidates run over golden cases as job folders, and are judged."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.groups import Group, group_of_job, job_pairs, run_size, with_optional
from grok_conformance.harness.judging.memory import with_memory
from grok_conformance.harness.judging.narrowing import Narrow, narrowed
from grok_conformance.harness.judging.reruns import need_replay, with_causes
from grok_conformance.harness.judging.selection import matching
from grok_conformance.harness.judging.submission import Submission
from grok_conformance.harness.judging.summary import judge_weights, summarise
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver, waivers_of
from grok_conformance.harness.judging.whole_run import HonestRuns
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import read_job, write_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.sessions.asking import (
    NUM_CHILDREN,
    Answers,
    Question,
    answer_folders,
    ask_at_once,
    groups_for,
    setting,
)
from grok_conformance.harness.sessions.dumping import CaseEvidence, evidence_of
from grok_conformance.harness.sessions.judges import judge_side_by_side, judges

NICENESS_STEP, MAX_NICENESS = 10, 19
"""How much each candidate gives way to the one before it, and at most."""

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
        numbered = (f"{name}.reweighted" + f".{number}" * (number > 1) for number in itertools.count(1))
        names.append(name if name not in names else next(each for each in numbered if each not in names))
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
    shares = {each.compiles: groups_for(each, groups) for each in candidates}
    every = list({id(group): group for share in shares.values() for group in share}.values())
    jobs = dict(zip(map(id, every), write_jobs(every, suite, folder / "jobs"), strict=True))
    honest_runs: HonestRuns = {}
    folders = answer_folders(folder / "answers", [candidate.name for candidate in candidates])

    def ask(place: int, candidate: Candidate) -> Callable[[], tuple[float, list[Answers]]]:
        progress = partial(on_progress, candidate.name)
        return ask_at_once(
            pool, candidate, question(candidate, folders[candidate.name]), giving_way(limits, place), progress
        )

    def question(candidate: Candidate, answers: Path) -> Question:
        own = shares[candidate.compiles]
        paths = tuple(jobs[id(group)] for group in own)
        return Question(own, paths, tuple(answers / path.name for path in paths))

    with (
        ThreadPoolExecutor(NUM_CHILDREN) as pool,
        ThreadPoolExecutor(1) as beside,
        setting(limits.stop),
        judges(every) as at_work,
    ):
        asked = [ask(place, candidate) for place, candidate in enumerate(candidates)]
        for candidate, answered in zip(candidates, asked, strict=True):
            own = shares[candidate.compiles]
            known, size = waivers_of(waivers, candidate.name), run_size(own)
            seconds, answers = answered()
            weighed = beside.submit(judge_weights, own, question(candidate, folders[candidate.name]).outs)
            submission = Submission(own, tuple(answers), size, narrow, known)
            began = time.monotonic()
            judged = judge_side_by_side(submission, at_work, honest_runs)
            judging_seconds = time.monotonic() - began
            if need_replay(judged):
                with scratch_folder() as scratch, ThreadPoolExecutor(NUM_CHILDREN) as again:
                    _, replayed = ask_at_once(again, candidate, question(candidate, scratch), limits)()
                    judged = with_causes(judged, answers, replayed)
            judged = with_memory(judged, own, answers)
            verdict = summarise(candidate.name, own, answers, judged, seconds, weighed.result(), known)
            verdict = replace(verdict, judging_seconds=judging_seconds)
            evidence = evidence_of(own, answers, judged)
            yield Judgement(narrowed(verdict, narrow), folders[candidate.name], evidence, submission.num_elements)


def giving_way(limits: Limits, place: int) -> Limits:
    """Return the limits of a candidate by its place: it gives way to those before it and to their judges."""
    return replace(limits, niceness=min(place * NICENESS_STEP, MAX_NICENESS))


def judge_folder(
    golden: Golden, job_dir: Path, out_dir: Path, waivers: Sequence[Waiver] = (), patterns: Sequence[str] = ()
) -> CandidateVerdict:
    """Judge answers written elsewhere; raises FixtureError for a job that is not of this golden set.

    Where there are `patterns`, only the cases that one of them matches; raises FileError for one that matches none.

    `job_dir` is one job and `out_dir` the folder that a program left for it, or each holds one such folder per job,
    under the same names.
    """
    pairs = job_pairs(job_dir, out_dir)
    answers = [read_answer(out, read_job(job)) for job, out in pairs]
    names = [answer.info.name for each in answers for answer in each.values() if answer.info is not None]
    return judge_pairs(golden, pairs, names[0] if names else out_dir.name, waivers, patterns)


def judge_pairs(
    golden: Golden,
    pairs: Sequence[tuple[Path, Path]],
    name: str,
    waivers: Sequence[Waiver] = (),
    patterns: Sequence[str] = (),
) -> CandidateVerdict:
    """Judge the answers of one candidate in (job, answers) folders; raises FixtureError as `judge_folder` does."""
    groups = with_optional([group_of_job(golden, job) for job, _ in pairs])
    if patterns:
        kept = matching(groups, patterns)
        pairs = [pair for pair, group in zip(pairs, kept, strict=True) if group.cases]
        groups = tuple(group for group in kept if group.cases)
    answers = [read_answer(out, read_job(job)) for job, out in pairs]
    known = waivers_of(waivers, name)
    submission = Submission(tuple(groups), tuple(answers), run_size(groups), waivers=known)
    with judges(groups) as at_work:
        judged = judge_side_by_side(submission, at_work, HonestRuns())
    judged = with_memory(with_causes(judged, answers, None), groups, answers)
    weights = judge_weights(groups, [out for _, out in pairs])
    return summarise(name, groups, answers, judged, 0.0, weights, known)
