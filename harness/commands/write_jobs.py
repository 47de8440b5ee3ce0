"""`python -m grok_conformance write-jobs`: job folders for a program that runs elsewhere."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import PASS, seed
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import any_seed
from grok_conformance.harness.judging.selection import asked_groups
from grok_conformance.harness.running.answers import make_folders
from grok_conformance.harness.running.jobs import read_job
from grok_conformance.harness.sessions import run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("out", type=Path, metavar="DIR", help="a new folder, for jobs/NAME and answers/NAME")
    parser.add_argument(
        "--case", action="append", default=[], metavar="GLOB", help="only the cases that match; repeatable"
    )
    parser.add_argument(
        "--seed", type=seed, metavar="N", help="draw what an earlier run drew (default: something else)"
    )
    parser.add_argument(
        "--golden", type=Path, default=GOLDEN, metavar="DIR", help="the golden set (default: golden/v1)"
    )


def execute(options: argparse.Namespace) -> int:
    """Write a job folder per preset and compute dtype, and say how to go on."""
    golden = open_golden(options.golden)
    seed = any_seed() if options.seed is None else options.seed
    groups = asked_groups(golden, options.case, seed=seed)
    if options.out.exists():
        raise FileError(f"{options.out}: exists already: give a new folder")
    jobs, answers = options.out / "jobs", options.out / "answers"
    for job in run.write_jobs(groups, golden.manifest.suite, jobs):
        make_folders(answers / job.name, read_job(job))
        sys.stdout.write(f"PROGRAM {job} {answers / job.name}\n")
    sys.stdout.write(f"python -m grok_conformance judge {jobs} {answers}\n")
    return PASS
