"""`python -m grok_conformance check-weights`: the weights as a candidate holds them, before any forward pass."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from grok_conformance.harness.commands import NONCONFORMING, PASS
from grok_conformance.harness.contract import LOGITS
from grok_conformance.harness.contract.taps import GOLDEN
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.formats.scratch import scratch_folder
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging import summary
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.judging.selection import stored_groups
from grok_conformance.harness.measure.words import number_of
from grok_conformance.harness.report.weights import grouped
from grok_conformance.harness.running.answers import read_answer, read_weights
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.jobs import write_job
from grok_conformance.harness.running.registry import Candidate, find_candidate
from grok_conformance.harness.running.runner import run_jobs

HOOKS = "give the model loaded_weights(), or the module dequantize(weight, scales) or partition_specs(config)"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of the command."""
    parser.add_argument("--candidate", required=True, metavar="NAME", help="as for run")
    parser.add_argument("--case", action="append", default=[], metavar="GLOB",
                        help="only presets and dtypes of matching cases; repeatable")  # fmt: skip
    parser.add_argument("--golden", type=Path, default=GOLDEN, metavar="DIR", help="default: golden/v1")


def execute(options: argparse.Namespace) -> int:
    """Run a candidate over one case per preset and compute dtype, and look at nothing but the weights that it shows."""
    golden = open_golden(options.golden)
    candidate = find_candidate(options.candidate)
    groups = stored_groups(golden, options.case)
    with scratch_folder() as scratch:
        outs, failures = load_everywhere(candidate, groups, golden.manifest.suite, scratch)
        problems = summary.judge_weights(groups, outs)
        counts = [num_shown(out) for out in outs]
    sys.stdout.writelines(f"{line}\n" for line in grouped(problems))
    empty = [group for group, count in zip(groups, counts, strict=True) if not count]
    if empty:
        reason = failures.get(empty[0].preset.name) or HOOKS
        sys.stdout.write(
            f"{candidate.name}: shows no weights of {len(empty)} of {number_of(len(groups), 'models')}: {reason}\n"
        )
    if not empty and not problems:
        told = f"{number_of(sum(counts), 'tensors')} of {number_of(len(groups), 'models')}"
        sys.stdout.write(f"{candidate.name}: {told} are as stored\n")
    return NONCONFORMING if problems or empty else PASS


def load_everywhere(
    candidate: Candidate, groups: tuple[Group, ...], suite: str, folder: Path
) -> tuple[list[Path], dict[str, str]]:
    """Run the first case of every group for its logits; return the answer folders, and why presets had no answer."""
    jobs = [folder / "jobs" / f"{group.preset.name}.{group.fprop_dtype}" for group in groups]
    outs = [folder / "answers" / job.name for job in jobs]
    described = [
        write_job(job, suite, group.preset, group.cases[:1], (LOGITS,), ())
        for job, group in zip(jobs, groups, strict=True)
    ]
    records = run_jobs(candidate, list(zip(jobs, outs, strict=True)), Limits())
    failures = {}
    for job, out, record in zip(described, outs, records, strict=True):
        (answer,) = read_answer(out, job, record.unanswered).values()
        failures[job.preset] = "" if answer.status == "answered" else f"{answer.status}: {answer.reason}"
    return outs, failures


def num_shown(out_dir: Path) -> int:
    """Return how many tensors and specs an answer folder shows; files that cannot be read are judged elsewhere."""
    try:
        shown, specs = read_weights(out_dir)
    except (FileError, OSError):
        return 1
    return len(shown) + len(specs or ())
