"""`python -m grok_conformance judge`: the full verdict on answers that were written elsewhere."""

from __future__ import annotations

import argparse
from pathlib import Path

from grok_conformance.harness.commands.conclusion import conclude
from grok_conformance.harness.commands.report_options import add_report_options
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.known_deviations import known_deviations
from grok_conformance.harness.sessions import run
from grok_conformance.harness.sessions.dumps import answers_from_dumps

JOB = "job.json"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("job", type=Path, metavar="JOB", help="a job folder, or a folder of several")
    parser.add_argument("out", type=Path, metavar="OUT", help="the folder of its answers, or one of as many")
    parser.add_argument(
        "--format", choices=("answers", "npz", "torch", "sglang", "vllm"), default="answers",
        help="what OUT holds: answers, or dumps of one job in an engine's format (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--map", type=Path, metavar="FILE", help="a Python file with INFO and TAP_MAP, to read dumps by"
    )
    parser.add_argument(
        "--case", action="append", default=[], metavar="GLOB", help="only the cases that match; repeatable"
    )
    add_report_options(parser)


def execute(options: argparse.Namespace) -> int:
    """Judge answers written elsewhere."""
    golden = open_golden(options.golden)
    waivers = known_deviations(options.waivers, golden)
    if (options.format == "answers") != (options.map is None):
        raise FileError("--map goes with a --format of dumps, and each of these needs it")
    if not any(path.is_file() for pattern in (JOB, f"*/{JOB}") for path in options.job.glob(pattern)):
        raise FileError(f"{options.job}: no job folder, nor several: `write-jobs` makes them")
    with scratch_folder() as scratch:
        out = options.out
        if options.map is not None:
            out = scratch / "answers"
            answers_from_dumps(options.job, options.out, options.format, options.map, out)
        verdict = run.judge_folder(golden, options.job, out, waivers, options.case)
        return conclude([verdict], golden, options, waivers=waivers)
