"""What is to be shown on a GPU, in one run of at most 8 minutes: `python -m tests.gpu.session`.

For a bare machine with one GPU: a checkout, Python 3.12, jax 0.11, torch 2.11, numpy 2.5, no network. What else the
harness imports is carried as wheels, in the folder that `--wheels` names; whoever has a network fills it with

    python -m pip download --no-deps --dest wheels --constraint constraints.txt \\
        absl-py dm-haiku fastjsonschema jmp tabulate

Then, in the checkout on that machine: `python -m tests.gpu.session --wheels wheels --out build/gpu`. The steps are the
table in `tests/gpu/steps.py`, the cheap and telling ones first. Each runs in a process of its own and within its time;
one that fails does not keep the later ones from running, and one for which no time is left is left out, which is no
pass. What was found lies in the folder `--out`, written anew after every step: `results.md` to read, `results.json`,
and a folder for each step with `output.txt` and what it wrote.

`--cpu` is the dry run, without a GPU: `nox -s gpu_rehearsal` makes an environment of those versions for it. What only
a GPU can show is then told as `not shown`.

No GPU was at hand when this was written: it has run dry only.

Exit status 0 if every step passed (of a dry run: passed or could not be shown), 1 if one failed or was left out,
2 for wrong usage: no GPU and no `--cpu`, a package missing and no wheel of it.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from tests.gpu.child import Ended, run
from tests.gpu.results import Result, exit_status, read_figures, status_of, verdict_line, write_results
from tests.gpu.steps import BUDGET_SECONDS, NO_GPU, STEPS, Step, allowance, scaled
from tests.gpu.wheels import MissingError, install_missing

ROOT = Path(__file__).resolve().parents[2]
WRONG_USAGE = 2

Run = Callable[[Sequence[str], Path, float, Mapping[str, str]], Ended]
"""Runs a command with its output in a file, for so many seconds at most, in an environment."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the steps and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu.session", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "gpu", metavar="DIR", help="default: build/gpu")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="wheels of packages that are not installed")
    parser.add_argument("--cpu", action="store_true", help="a dry run without a GPU")
    parser.add_argument("--step", action="append", default=[], choices=[s.name for s in STEPS], help="only these")
    parser.add_argument(
        "--budget", type=float, default=BUDGET_SECONDS, metavar="SECONDS", help="of the run; steps have shares of it"
    )
    options = parser.parse_args(arguments)
    began = time.monotonic()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    try:
        site = install_missing(options.wheels, out / "site")
    except MissingError as error:
        say(str(error), sys.stderr)
        return WRONG_USAGE
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that a step ends with the session
    steps = [step for step in STEPS if not options.step or step.name in options.step]
    results = run_steps(
        scaled(steps, options.budget / BUDGET_SECONDS),
        out,
        environment(site, out, cpu=options.cpu),
        lambda: options.budget - (time.monotonic() - began),
        cpu=options.cpu,
    )
    if any(result.exit_code == NO_GPU for result in results):
        say("no GPU that both JAX and torch see: give --cpu for a dry run, or run it where there is one", sys.stderr)
        return WRONG_USAGE
    say(verdict_line(results, cpu=options.cpu))
    say(f"{out / 'results.md'}")
    return exit_status(results, cpu=options.cpu)


def run_steps(
    steps: Sequence[Step],
    out: Path,
    environ: Mapping[str, str],
    seconds_left: Callable[[], float],
    *,
    cpu: bool,
    run_command: Run = run,
) -> list[Result]:
    """Run steps one after the other, each within its time; write the results after each; end where there is no GPU."""
    results: list[Result] = []
    for number, step in enumerate(steps):
        left = seconds_left()
        seconds = allowance([each.seconds for each in steps[number:]], left)
        place = f"[{number + 1}/{len(steps)}] {step.name}"
        result = Result(step.name, step.shows, "left out", note=f"{left:.0f} s were left, {step.seconds:.0f} s needed")
        if seconds is not None:
            say(f"{place}: {step.shows}; {seconds:.0f} s of the {left:.0f} s left")
            result = run_step(step, out / step.name, seconds, environ, run_command, cpu=cpu)
        say(f"{place}: {result.status}, {result.seconds:.1f} s{result.note and '; '}{result.note}")
        results.append(result)
        write_results(out, results, cpu=cpu)
        if result.exit_code == NO_GPU:
            break
    return results


def run_step(
    step: Step, folder: Path, seconds: float, environ: Mapping[str, str], run_command: Run, *, cpu: bool
) -> Result:
    """Run one step in a new folder, and return what became of it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "figures.json").unlink(missing_ok=True)
    command = [sys.executable, "-m", step.module, *step.arguments, "--folder", str(folder), *(["--cpu"] if cpu else [])]
    ended = run_command(command, folder / "output.txt", seconds, {**environ, **step.environment})
    status, note = status_of(ended, seconds, folder / "output.txt")
    figures = read_figures(folder / "figures.json")
    return Result(step.name, step.shows, status, ended.seconds, seconds, figures, note, ended.exit_code)


def environment(site: Path | None, out: Path, *, cpu: bool) -> dict[str, str]:
    """Return the environment of every step: where packages lie, which device computes, what is kept that was compiled.

    JAX falls back to the CPU without a word unless `cuda` alone is named: with `cuda,cpu` it does so too. And it takes
    most of the memory of a GPU at once unless it is told not to, while several processes share one here.
    """
    paths = [str(ROOT), *([str(site)] if site else []), *filter(None, [os.environ.get("PYTHONPATH")])]
    device = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""} if cpu else {"JAX_PLATFORMS": "cuda"}
    return {
        **os.environ,
        **device,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONUNBUFFERED": "1",
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_COMPILATION_CACHE_DIR": str(out / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }


def say(text: str, stream: TextIO | None = None) -> None:
    """Print a line at once."""
    print(text, file=stream or sys.stdout, flush=True)


if __name__ == "__main__":
    sys.exit(main())
