"""The peak memory of judging ever more cases, each in a process of its own: what a run of any length needs.

As a program, `python -m tests.benchmarks.judging_memory FOLDER`, it reads the answers in a folder, judges them, and
prints the peak of its resident memory in bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.judging.groups import Group, nothing_expected, run_size
from grok_conformance.harness.judging.submission import Submission, judge_submission
from grok_conformance.harness.running.answers import read_answer
from grok_conformance.harness.running.jobs import read_job, write_job
from tests.benchmarks.results import say
from tests.benchmarks.scaling_sizes import BASE, case_of, info_of, preset_of

NUM_CASES = (8, 32, 64, 128)


def write_answers(folder: Path, num_cases: int, taps: Mapping[str, Array]) -> None:
    """Write a job of equal cases, and their answers as a candidate leaves them."""
    cases = [case_of(BASE, number) for number in range(num_cases)]
    job = write_job(folder / "job", "1", preset_of(BASE), cases, info_of(BASE).taps, reruns=())
    for case in job.cases:
        answer = folder / "answers" / case.folder
        answer.mkdir(parents=True)
        write_tensors(answer / "taps.safetensors", taps)
        (answer / "result.json").write_text(json.dumps({"status": "answered"}))
    info = info_of(BASE)
    told = {"name": info.name, "version": info.version, "taps": list(info.taps), "tie_rule": info.tie_rule}
    (folder / "answers" / "info.json").write_text(json.dumps(told))


def peak_bytes(num_cases: int, taps: Mapping[str, Array]) -> int:
    """Return the peak resident memory of a process that judges so many cases."""
    with tempfile.TemporaryDirectory(prefix="judging-memory-") as folder:
        write_answers(Path(folder), num_cases, taps)
        command = [sys.executable, "-m", "tests.benchmarks.judging_memory", folder]
        return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)  # noqa: S603 - this module


def judge(folder: Path) -> None:
    """Judge the answers in a folder; raises SystemExit where a case does not pass."""
    job = read_job(folder / "job")
    cases = tuple(case_of(BASE, number) for number in range(len(job.cases)))
    group = Group(preset_of(BASE), "float32", cases, nothing_expected)
    answers = read_answer(folder / "answers", job, {})
    (judged,) = judge_submission(Submission((group,), (answers,), run_size([group])), {})
    if wrong := [verdict for verdict in judged.verdicts if verdict.status != "pass"]:
        raise SystemExit(f"{wrong[0].case}: {wrong[0].status}: {wrong[0].reason}")


def own_peak_bytes() -> int:
    """Return the peak resident memory of this program; what `getrusage` gives includes its parent before the start."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    judge(Path(sys.argv[1]))
    say(str(own_peak_bytes()))
