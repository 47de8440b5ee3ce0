"""Asks a candidate: its groups as job folders, in two child processes at once, each for about half of them."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.judging.groups import Group, with_one_sweep
from grok_conformance.harness.running.answers import Answer, read_answer
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.info import one_line
from grok_conformance.harness.running.jobs import Job, read_job
from grok_conformance.harness.running.registry import Candidate
from grok_conformance.harness.running.runner import run_jobs

NUM_CHILDREN = 2
"""Child processes that run at the same time; engines use several threads each."""

Answers = Mapping[str, Answer]
"""The answers to the cases of one group, by case id."""


@dataclass(frozen=True)
class Question:
    """What a candidate is asked: groups, the job folder of each, and the folder of its answers."""

    groups: tuple[Group, ...]
    jobs: tuple[Path, ...]
    outs: tuple[Path, ...]


def ask_at_once(
    pool: Executor,
    candidate: Candidate,
    question: Question,
    limits: Limits,
    on_progress: Callable[[str], None] = lambda _case: None,
) -> Callable[[], tuple[float, list[Answers]]]:
    """Ask a candidate in parts that a pool runs at once; what is returned waits for the answers, group by group.

    With them come the seconds from the first part's beginning to the last one's end. A candidate that is started anew
    for every job is asked in one part.
    """
    parts = halves(question.groups) if candidate.serves_many else [tuple(range(len(question.groups)))]
    jobs, outs = question.jobs, question.outs
    asked = [
        (part, pool.submit(timed, candidate, [jobs[i] for i in part], [outs[i] for i in part], limits, on_progress))
        for part in parts
    ]

    def answered() -> tuple[float, list[Answers]]:
        found: dict[int, Answers] = {}
        times: list[float] = []
        for part, future in asked:
            began, ended, answers = future.result()
            times += [began, ended]
            found |= zip(part, answers, strict=True)
        return max(times) - min(times), [found[place] for place in sorted(found)]

    return answered


def halves(groups: Sequence[Group]) -> list[tuple[int, ...]]:
    """Return the places of groups in two parts of about the same cost, both with all compute dtypes where they can be.

    An engine pays for each layer of each call; a compiler as well. A fault may hang on what came before in the same
    process, so that which groups share one does not depend on the machine.
    """
    costs = [sum(len(case.calls) for case in group.cases) * group.preset.config.model.num_layers for group in groups]
    parts: tuple[list[int], list[int]] = ([], [])
    for place in sorted(range(len(groups)), key=lambda i: -costs[i]):
        min(parts, key=lambda part: sum(costs[i] for i in part)).append(place)
    return [tuple(sorted(part)) for part in parts if part]


def timed(
    candidate: Candidate,
    jobs: Sequence[Path],
    outs: Sequence[Path],
    limits: Limits,
    on_progress: Callable[[str], None],
) -> tuple[float, float, list[Answers]]:
    """Return when a candidate began and ended, in seconds of one clock, and its answers."""
    began = time.monotonic()
    answers = ask(candidate, jobs, outs, limits, on_progress)
    return began, time.monotonic(), answers


def groups_for(candidate: Candidate, groups: Sequence[Group]) -> tuple[Group, ...]:
    """Return the groups that a candidate is asked: one that compiles anew for every shape has a share of one sweep."""
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
