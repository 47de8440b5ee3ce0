"""Runs a candidate over a job folder. One that crashes, hangs or takes too much memory loses the case it was at.

The child process is started again for the cases that are left.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import BinaryIO

from grok_conformance.harness.cases.reruns import RERUNS
from grok_conformance.harness.formats.files import FileError, write_json
from grok_conformance.harness.formats.scratch import disk_bytes, remove_tree, scratch_folder
from grok_conformance.harness.running.answers import Answer, is_answered, make_folders
from grok_conformance.harness.running.child_process import Exit, Limits, run_child
from grok_conformance.harness.running.info import one_line
from grok_conformance.harness.running.jobs import Job, JobCase, link_job, read_job
from grok_conformance.harness.running.registry import Candidate

REFUSED = 1
REFUSAL = "unsupported:"

AFTER_ALL = tuple(rerun.name for rerun in RERUNS if rerun.after_all)

Logs = tuple[BinaryIO, BinaryIO]
"""Where the candidate's stdout and stderr go."""

KEPT = {"info.json", "stdout.txt", "stderr.txt"}
"""What a candidate keeps that has filled the disk, besides the cases that it has answered."""

MAX_FRUITLESS_STARTS = 2
"""After so many starts in a row without one answer, the cases left are given up."""


@dataclass(frozen=True)
class RunRecord:
    """How a run went: the end of every start of the program, and what became of the cases without a result."""

    candidate: str
    exits: tuple[Exit, ...]
    unanswered: Mapping[str, Answer]

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of all starts."""
        return sum(end.seconds for end in self.exits)

    @property
    def peak_bytes(self) -> int:
        """The most resident memory seen, 0 where it cannot be sampled."""
        return max((end.peak_bytes for end in self.exits), default=0)


@dataclass(frozen=True)
class Task:
    """A job as it was written, its folder, and the folder of its answers."""

    job: Job
    job_dir: Path
    out_dir: Path


def run_job(
    candidate: Candidate,
    job_dir: Path,
    out_dir: Path,
    limits: Limits,
    on_progress: Callable[[str], None] = lambda _case_id: None,
) -> RunRecord:
    """Run a candidate over a job; leave its answers, stdout.txt, stderr.txt and run.json in a new or empty folder.

    `limits.silent_seconds` is the time to load the model and answer one case. `on_progress` is called with the id of
    every case that has a result. Raises FileError for a broken job, a folder that is not empty, and a program that
    cannot be started.
    """
    return run_jobs(candidate, [(job_dir, out_dir)], limits, on_progress)[0]


def run_jobs(
    candidate: Candidate,
    folders: Sequence[tuple[Path, Path]],
    limits: Limits,
    on_progress: Callable[[str], None] = lambda _case_id: None,
) -> list[RunRecord]:
    """Run a candidate over several (job, answers) folders, each as `run_job` does.

    A Python candidate answers all jobs in one process, so that its engine is loaded once; what that process leaves
    unanswered is run again, job by job. A job is read once, before the program can write to its folder.
    """
    folders = [(job_dir.resolve(), out_dir.resolve()) for job_dir, out_dir in folders]
    tasks = [Task(read_job(job_dir), job_dir, out_dir) for job_dir, out_dir in folders]
    with contextlib.ExitStack() as stack:
        logs = [stack.enter_context(_prepared(task)) for task in tasks]
        earlier: list[tuple[Exit, ...]] = [()] * len(tasks)
        if candidate.serves_many and len(tasks) > 1:
            earlier[0] = (_run_together(candidate, tasks, logs[0], limits, on_progress),)
        return [
            _run_rest(candidate, task, task_logs, limits, on_progress, exits)
            for task, task_logs, exits in zip(tasks, logs, earlier, strict=True)
        ]


@contextlib.contextmanager
def _prepared(task: Task) -> Iterator[Logs]:
    """Make the answer folder and open its logs once: a link put in their place is never followed."""
    out_dir = task.out_dir
    if out_dir.exists() and any(out_dir.iterdir()):
        raise FileError(f"{out_dir}: not empty, and old answers would pass for new ones: give a new folder")
    make_folders(out_dir, task.job)
    with (out_dir / "stdout.txt").open("xb") as stdout, (out_dir / "stderr.txt").open("xb") as stderr:
        yield stdout, stderr


def _run_together(
    candidate: Candidate,
    tasks: Sequence[Task],
    logs: Logs,
    limits: Limits,
    on_progress: Callable[[str], None],
) -> Exit:
    """Run a candidate once over all jobs; its output is logged beside the first job's answers."""
    paths = [str(path) for task in tasks for path in (task.job_dir, task.out_dir)]
    waiting = [(task.out_dir, case) for task in tasks for case in task.job.cases]
    end = run_child(
        (*candidate.command, *paths),
        logs,
        limits,
        _progress(waiting, on_progress),
        lambda: sum(disk_bytes(task.out_dir) for task in tasks),
    )
    for task in tasks:
        restore(task, end)
    return end


def restore(task: Task, end: Exit) -> None:
    """Make the folders again that a program may have removed; what one wrote that filled the disk is removed first."""
    make_folders(task.out_dir, task.job)
    if end.broke != "disk":
        return
    for case in task.job.cases:
        if not is_answered(task.out_dir, case):
            remove_tree(task.out_dir / case.folder)
    known = {case.folder for case in task.job.cases} | KEPT
    for path in [path for path in task.out_dir.iterdir() if path.name not in known]:
        remove_tree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    make_folders(task.out_dir, task.job)


def _run_rest(
    candidate: Candidate,
    task: Task,
    logs: Logs,
    limits: Limits,
    on_progress: Callable[[str], None],
    earlier: tuple[Exit, ...],
) -> RunRecord:
    """Start a candidate over the unanswered cases of a job until each has a result or is given up."""
    job, job_dir, out_dir = task.job, task.job_dir, task.out_dir
    exits = list(earlier)
    unanswered: dict[str, Answer] = {}
    left, fruitless = tuple(case for case in job.cases if not is_answered(out_dir, case)), 0
    with scratch_folder() as scratch:
        while left:
            folder = job_dir if left == job.cases else scratch / str(len(exits))
            if folder != job_dir:
                link_job(job_dir, replace(job, cases=left), folder)
            command = (*candidate.command, str(folder), str(out_dir))
            waiting = [(out_dir, case) for case in left]
            end = run_child(command, logs, limits, _progress(waiting, on_progress), lambda: disk_bytes(out_dir))
            restore(task, end)
            rest = tuple(case for case in left if not is_answered(out_dir, case))
            fruitless = fruitless + 1 if rest == left else 0
            exits.append(end)
            lost = _unanswered(rest, end, limits, given_up=fruitless == MAX_FRUITLESS_STARTS)
            unanswered |= lost
            left = rest[len(lost) :]
    record = RunRecord(candidate.name, tuple(exits), unanswered)
    _write_record(out_dir / "run.json", record)
    return record


def _progress(waiting: list[tuple[Path, JobCase]], on_progress: Callable[[str], None]) -> Callable[[], bool]:
    """Return a function that reports every newly answered (answer folder, case) and returns whether there was one.

    The taps of a first run, and a run after all others that has begun, are progress too, and are not reported: a
    compiler may need as long for the further runs as for the first.
    """
    signs = ("taps.safetensors", *(f"{name}.json" for name in AFTER_ALL))
    unseen = [out_dir / case.folder / sign for out_dir, case in waiting for sign in signs]

    def progressed() -> bool:
        answered = [pair for pair in waiting if is_answered(*pair)]
        for pair in answered:
            waiting.remove(pair)
            on_progress(pair[1].id)
        begun = [path for path in unseen if os.path.lexists(path)]
        for path in begun:
            unseen.remove(path)
        return bool(answered or begun)

    return progressed


def _unanswered(rest: Sequence[JobCase], end: Exit, limits: Limits, *, given_up: bool) -> dict[str, Answer]:
    """Return the cases lost with the end of a program: all of those left, or the first if it is worth another start."""
    answer = _reason(end, limits)
    if answer.status != "error":
        return {case.id: answer for case in rest}
    lost = {case.id: answer for case in rest[:1]}
    if given_up:
        reason = f"not reached in {MAX_FRUITLESS_STARTS} starts without an answer: {answer.reason}"
        lost |= {case.id: replace(answer, reason=reason) for case in rest[1:]}
    return lost


def _reason(end: Exit, limits: Limits) -> Answer:
    """Return what the end of a program says of a case without a result."""
    last_line = end.stderr_tail.strip().rpartition("\n")[2]
    if end.broke is None and end.status == 0:
        return Answer(status="missing", reason="the program ended with status 0 and wrote no result")
    if end.broke is None and end.status == REFUSED and last_line.startswith(REFUSAL):
        return Answer(status="unsupported", reason=one_line(last_line.removeprefix(REFUSAL)))
    return Answer(status="error", reason=one_line(_failure(end, limits, last_line)))


def _failure(end: Exit, limits: Limits, last_line: str) -> str:
    match end.broke:
        case "time":
            return f"no answer within {limits.silent_seconds:g} seconds"
        case "memory":
            mebibytes = (size / 2**20 for size in (end.peak_bytes, limits.memory_bytes))
            return "took {:.0f} MiB of memory, allowed are {:.0f}".format(*mebibytes)
        case "disk":
            return f"wrote more than {limits.disk_bytes / 2**20:.0f} MiB"
        case "processes":
            return f"ran more than {limits.num_processes} processes at once"
    if end.status < 0:
        return f"ended by signal {-end.status}, {signal.strsignal(-end.status)}{crashed_at(end.stderr_tail)}"
    return f"the program ended with status {end.status}: {last_line or 'no word on stderr'}"


def crashed_at(stderr: str) -> str:
    """Return where Python's fault handler says that a candidate crashed, in its own file where one is named."""
    frames = re.findall(r'File "([^"]+)", line (\d+) in (\S+)', stderr)
    own = [frame for frame in frames if not re.search("(site|dist)-packages|/harness/running/|/lib/python", frame[0])]
    return "".join(f", at {Path(path).name}:{line} in {name}" for path, line, name in (own or frames)[:1])


def _write_record(path: Path, record: RunRecord) -> None:
    rows = {case: {"status": answer.status, "reason": answer.reason} for case, answer in record.unanswered.items()}
    exits = [asdict(end) for end in record.exits]
    with contextlib.suppress(OSError):  # whatever the program made of its folder; a run does not need this file
        path.unlink(missing_ok=True)  # a pipe in its place would wait for a reader for ever
        write_json(path, {"candidate": record.candidate, "exits": exits, "unanswered": rows}, lasting=False)
