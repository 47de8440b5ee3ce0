"""Judges the compute dtypes of a candidate side by side, each in a process of its own.

A judge is this module run as a program. What passes is data: the groups of its compute dtype, once, which are by far
the most of it; then of each submission what was answered, what its operations were found to do, the diagnoses that hold
in all compute dtypes, and the judgement.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, Any

from grok_conformance.harness.diagnosis.likely_fault import Diagnosis
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.agreement import Told, in_agreement
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.judge import Judged
from grok_conformance.harness.judging.submission import Submission, judge_submission, together
from grok_conformance.harness.judging.whole_run import HonestRuns


@dataclass(frozen=True)
class Judge:
    """A judge at work: its groups, the pipes by which it is asked and answers, and when it has been told of its groups.

    A thread tells it of them, while the candidate answers.
    """

    process: subprocess.Popen[bytes]
    groups: tuple[Group, ...]
    asked: IO[bytes]
    told: IO[bytes]
    knows: Future[None]


Judges = Mapping[str, Judge]
"""A judge for each compute dtype."""


ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""The environment of a judge: its products are small, and threads that wait for each other take the others' time."""


class JudgeError(RuntimeError):
    """Raised where a judge ended without a judgement; the message is its traceback."""


@contextlib.contextmanager
def judges(groups: Sequence[Group]) -> Iterator[Judges]:
    """Start a judge for each compute dtype of some groups, which are ended with the block; none for one dtype alone."""
    dtypes = tuple(dict.fromkeys(group.fprop_dtype for group in groups))
    with contextlib.ExitStack() as stack:
        yield {
            dtype: stack.enter_context(judge(tuple(group for group in groups if group.fprop_dtype == dtype)))
            for dtype in (dtypes if len(dtypes) > 1 else ())
        }


@contextlib.contextmanager
def judge(groups: tuple[Group, ...]) -> Iterator[Judge]:
    """Start a judge of some groups, which is ended with the block."""
    command = [sys.executable, "-c", f"from {__name__} import main; main()"]
    environment = {**os.environ, **ONE_THREAD}
    with (
        ThreadPoolExecutor(1) as telling,
        subprocess.Popen(  # noqa: S603 - ourselves
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        ) as process,
    ):
        if process.stdin is None or process.stdout is None:
            raise JudgeError("a judge has no pipes")  # never: both were asked for
        try:
            yield Judge(process, groups, process.stdin, process.stdout, telling.submit(send, process.stdin, groups))
        finally:
            process.kill()
            with contextlib.suppress(BrokenPipeError):  # it may still be told of its groups
                process.stdin.close()


def judge_side_by_side(submission: Submission, at_work: Judges, honest_runs: HonestRuns) -> list[Judged]:
    """Return the judgement on a submission, group by group; here, where no judge is at work on each of its dtypes."""
    dtypes = submission.fprop_dtypes
    if len(dtypes) == 1 or submission.narrow or not set(dtypes) <= set(at_work):
        return judge_submission(submission, honest_runs)
    for dtype in dtypes:
        at_work[dtype].knows.result()
        send(at_work[dtype].asked, known_groups(submission.in_dtype(dtype), at_work[dtype]))
    held = in_agreement({dtype: receive(at_work[dtype].told) for dtype in dtypes})
    for dtype in dtypes:
        send(at_work[dtype].asked, held)
    return together(submission, {dtype: receive(at_work[dtype].told) for dtype in dtypes})


def known_groups(submission: Submission, judge: Judge) -> tuple[tuple[int, ...], Submission]:
    """Return the places of a submission's groups among those that a judge knows, and all else of it."""
    places = {id(group): place for place, group in enumerate(judge.groups)}
    return tuple(places[id(group)] for group in submission.groups), replace(submission, groups=())


def send(pipe: IO[bytes], said: Any) -> None:
    """Say something through a pipe; that its other end is gone is told by what is received."""
    with contextlib.suppress(BrokenPipeError):
        pickle.dump(said, pipe)
        pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Return what is said through a pipe; raises JudgeError for the traceback of a judge, or where nothing comes.

    Raises FileError for an answer that is not what it was when it was read.
    """
    try:
        said = pickle.load(pipe)  # noqa: S301 - from a process of our own
    except EOFError:
        raise JudgeError("a judge ended before it had judged") from None
    if isinstance(said, JudgeError | FileError):
        raise said
    return said


def heard(pipe: IO[bytes]) -> Iterator[Any]:
    """Yield what is said through a pipe, until it is closed."""
    while True:
        try:
            said = pickle.load(pipe)  # noqa: S301 - from a process of our own
        except EOFError:
            return
        yield said


def work(asked: IO[bytes], told: IO[bytes]) -> None:
    """Judge what is asked for through one pipe, and tell it through another, until the first is closed."""
    honest_runs: HonestRuns = {}
    said = heard(asked)
    groups = next(said, ())
    for places, answered in said:
        submission: Submission = replace(answered, groups=tuple(groups[place] for place in places))

        def agree(found: Mapping[str, Told]) -> Mapping[str, Mapping[str, Diagnosis]]:
            (one,) = found.values()
            send(told, one)
            held: Mapping[str, Mapping[str, Diagnosis]] = receive(asked)
            return held

        try:
            send(told, judge_submission(submission, honest_runs, agree))
        except FileError as error:
            send(told, error)
        except Exception:  # noqa: BLE001 - whatever it is, the one who asked is told
            send(told, JudgeError(traceback.format_exc()))


def main() -> None:
    """Judge until nobody asks any more; whoever started this program ends it, on Ctrl-C too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    told, sys.stdout = sys.stdout.buffer, sys.stderr  # a print is no answer
    work(sys.stdin.buffer, told)
