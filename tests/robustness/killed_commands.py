"""Ends commands by signals at random moments: `python -m tests.robustness.killed_commands FOLDER NUM_KILLS`.

Whatever was there must be there still, old or new and whole, nothing may go on running, and the command given once more
must succeed. Every command runs in a fork of this process, so that no time goes into imports. Prints what was done.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock
from xml.etree import ElementTree as ET

import psutil

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import run_execution  # noqa: F401 - imported before the forks
from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.scratch import remove_tree
from grok_conformance.harness.golden.audit import check_golden
from grok_conformance.harness.judging.baseline import has_baseline, read_baseline, read_history
from grok_conformance.harness.large import canonical, capture, store
from grok_conformance.harness.report import html  # noqa: F401 - likewise
from grok_conformance.harness.report.files import read_report
from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint import __main__ as checkpoint_command
from grok_conformance.reference.config import PRESETS
from tests.harness.large import tiny_capture
from tests.harness.tiny_golden import write_tiny
from tests.reference.checkpoint.tiny_checkpoints import DENSE, random_params
from tests.robustness.readers import CASE

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL)

END_SECONDS = 5.0
"""By then a command that was told to end has ended, with all that it started; the machine may be busy."""

PROGRAM = """#!{python} -IS
import json, shutil, sys, time
from pathlib import Path
job_dir, out_dir = map(Path, sys.argv[1:])
(out_dir / "info.json").write_text(json.dumps({{"name": "port", "version": "1", "taps": ["*"]}}))
for case in json.loads((job_dir / "job.json").read_text())["cases"]:
    stored, folder = Path("{golden}") / case["id"] / "taps.safetensors", out_dir / case["folder"]
    time.sleep(0.1)
    if stored.exists():
        shutil.copyfile(stored, folder / "taps.safetensors")
    result = {{"status": "answered" if stored.exists() else "unsupported", "reason": "not stored"}}
    (folder / "result.json").write_text(json.dumps(result))
"""


@dataclass
class Work:
    """A command over a folder that has been made ready, and what must hold whenever it has ended, however it did."""

    make_ready: Callable[[Path], None]
    command: Callable[[Path], int]
    check: Callable[[Path], None]
    seconds: float = 1.0
    counts: Counter[str] = field(default_factory=Counter)


def ready_to_run(folder: Path) -> None:
    program = folder / "port"
    program.write_text(PROGRAM.format(python=sys.executable, golden=GOLDEN_DIR / "v1" / "cases"))
    program.chmod(0o755)


def run(folder: Path) -> int:
    files = (f"--{kind}={folder / f'run.{kind}'}" for kind in ("json", "html", "junit"))
    words = ("--candidate", str(folder / "port"), "--case", CASE, "--baseline", str(folder / "kept"), "--quiet")
    return main(["run", *words, *files])


def check_run(folder: Path) -> None:
    """Check that every report and record is absent or whole; no line of the history may go."""
    if (folder / "run.json").exists():
        read_report(folder / "run.json")
    if (folder / "run.junit").exists():
        ET.parse(folder / "run.junit")  # noqa: S314 - our own report
    if (folder / "run.html").exists():
        assert (folder / "run.html").read_text().rstrip().endswith("</html>")
    name, known = str(folder / "port"), folder / "num_runs"
    lines = len(read_history(folder / "kept", name))
    assert lines >= int(known.read_text() if known.exists() else 0)
    known.write_text(str(lines))
    if has_baseline(folder / "kept", name):
        read_baseline(folder / "kept", name)


def ready_to_convert(folder: Path) -> None:
    checkpoint.save(folder / "source", DENSE, random_params(DENSE))


def convert(folder: Path) -> int:
    with mock.patch.dict(PRESETS, {"tiny": DENSE}):
        return checkpoint_command.main(
            ["convert", str(folder / "source"), str(folder / "out.safetensors"), "--config", "tiny"]
        )


def check_same(folder: Path) -> None:
    """Check that the file is absent, or what was written first."""
    out, first = folder / "out.safetensors", folder / "first"
    if out.exists():
        data = out.read_bytes()
        if not first.exists():
            first.write_bytes(data)
        assert data == first.read_bytes()
        out.unlink()


def synthesize(folder: Path) -> int:
    with mock.patch.dict(PRESETS, {"tiny": DENSE}):
        return checkpoint_command.main(["synthesize", str(folder / "made"), "--config", "tiny"])


def check_synthesized(folder: Path) -> None:
    if (folder / "made" / "ckpt-0").exists():
        assert checkpoint_command.main(["inspect", str(folder / "made"), "--verify"]) == 0
    remove_tree(folder / "made")


def ready_to_replace(folder: Path) -> None:
    write_tiny(folder / "v1")


def replace_golden(folder: Path) -> int:
    remove_tree(folder / ".v1.partial")  # as the refusal of the next writer asks
    write_tiny(folder / "v1", seed=int(time.time_ns() % 2), replace_ids=("*",))
    return 0


def check_set(folder: Path) -> None:
    there = folder / "v1" if (folder / "v1").exists() else folder / ".v1.replaced"
    check_golden(there)
    there.replace(folder / "v1")
    remove_tree(folder / ".v1.replaced")


def capture_large(folder: Path) -> int:
    with mock.patch.object(canonical, "run", tiny_capture.run):
        try:
            capture.capture(folder / "large", tiny_capture.make_plan(), folder)
        except FileError as error:
            return 0 if "another capture is writing" in str(error) else 1
    return 0


def capture_by_two(folder: Path) -> int:
    """Begin one capture in two processes: one writes, the other is told."""
    other = os.fork()
    if not other:
        os._exit(capture_large(folder))
    status = capture_large(folder)
    return status or os.waitstatus_to_exitcode(os.waitpid(other, 0)[1])


def check_large(folder: Path) -> None:
    if (folder / "large" / "manifest.json").exists():
        assert set(store.read_manifest(folder / "large")["stages"]) == set(tiny_capture.make_plan().stages)
        assert not store.stage_problem(folder / "large", "logits")
        remove_tree(folder / "large")


WORKS: Mapping[str, Work] = {
    "run with baseline and reports": Work(ready_to_run, run, check_run),
    "convert": Work(ready_to_convert, convert, check_same),
    "synthesize": Work(lambda _folder: None, synthesize, check_synthesized),
    "golden set": Work(ready_to_replace, replace_golden, check_set),
    "large capture": Work(lambda _folder: None, capture_large, check_large),
    "large capture by two": Work(lambda _folder: None, capture_by_two, check_large),
}


def fork(work: Work, folder: Path) -> int:
    """Start a command in a process of its own, in a session of its own, with a folder for temporary files."""
    child = os.fork()
    if child:
        return child
    os.setsid()
    with contextlib.suppress(BaseException):
        silent = os.open(os.devnull, os.O_RDWR)
        for number in (0, 1):
            os.dup2(silent, number)
        os.dup2(os.open(folder / "said.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        os.environ["TMPDIR"] = str(folder / "scratch")
        import tempfile  # noqa: PLC0415 - whose choice is made again here

        tempfile.tempdir = None
        os._exit(work.command(folder))
    os._exit(99)


def ended(child: int, seconds: float) -> int | None:
    """Return the wait status of a child once it ends, None if it does not in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return status
        time.sleep(0.005)
    return None


def running(folder: Path) -> list[str]:
    """Return the processes that have the folder in their environment or command line."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE and (
                process.environ().get("TMPDIR") == str(folder / "scratch") or str(folder) in process.cmdline()[-1:]
            ):  # fmt: skip
                found.append(f"{process.pid} {' '.join(process.cmdline())[:200]}")
    return found


def end_at_random(name: str, work: Work, folder: Path, chance: random.Random) -> None:
    """Begin a command, end it by a signal, and check what it left."""
    (folder / "scratch").mkdir(exist_ok=True)
    number = chance.choice(SIGNALS)
    child = fork(work, folder)
    time.sleep(chance.uniform(0, 1.1 * work.seconds))
    with contextlib.suppress(ProcessLookupError):
        os.kill(child, number)
    status = ended(child, END_SECONDS)
    assert status is not None, f"{name}: {number.name}: still there after {END_SECONDS:g} s"
    until = time.monotonic() + END_SECONDS
    while (left := running(folder)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left, f"{name}: {number.name}: left running: {left}"
    said = (folder / "said.txt").read_text() if (folder / "said.txt").exists() else ""
    assert "Traceback" not in said, f"{name}: {number.name}: {said}"
    if number != signal.SIGKILL:
        assert not os.listdir(folder / "scratch"), f"{name}: {number.name}: left {os.listdir(folder / 'scratch')}"  # noqa: PTH208
    work.counts["ended" if os.waitstatus_to_exitcode(status) in {0, 1} else "cut short"] += 1
    remove_tree(folder / "scratch")
    work.check(folder)


def complete(name: str, work: Work, folder: Path) -> float:
    """Run a command to its end, check what it left, and return the seconds it took."""
    (folder / "scratch").mkdir(exist_ok=True)
    began = time.monotonic()
    child = fork(work, folder)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - began
    assert os.waitstatus_to_exitcode(status) in {0, 1}, f"{name}: {(folder / 'said.txt').read_text()}"
    work.check(folder)
    return seconds


def try_all(root: Path, num_kills: int) -> None:
    """End every command in turn, until so many were; then each must still come to its end."""
    chance = random.Random(1)  # noqa: S311 - moments, no secrets
    for name, work in WORKS.items():
        (root / name).mkdir(parents=True)
        work.make_ready(root / name)
        work.seconds = complete(name, work, root / name)
    names = list(WORKS)
    for kill in range(num_kills):
        name = names[kill % len(names)]
        end_at_random(name, WORKS[name], root / name, chance)
    for name, work in WORKS.items():
        complete(name, work, root / name)
        sys.stdout.write(f"{name} ({work.seconds:.2f} s): {dict(work.counts)}\n")
    sys.stdout.write(f"{num_kills} signals: nothing lost, nothing left running\n")


if __name__ == "__main__":
    try_all(Path(sys.argv[1]), int(sys.argv[2]))
