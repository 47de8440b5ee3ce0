"""The command line: `python -m harness run | judge | capture | check-golden`.

Exit status 0: pass; 1: a candidate does not conform, or is missing; 2: wrong usage or a broken fixture.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from harness import run
from harness.audit import check_golden
from harness.child import Limits
from harness.contract import GOLDEN_DIR, LEVELS
from harness.files import FileError
from harness.registry import UnknownCandidateError, builtin_names, find_candidate
from harness.report import files, terminal
from harness.report.progress import progress_bar
from harness.store import Golden, open_golden
from harness.verdict import CandidateVerdict

GOLDEN = GOLDEN_DIR / "v1"
PASS, NONCONFORMING, BROKEN = 0, 1, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return the exit status."""
    options = parser().parse_args(arguments)
    try:
        status: int = options.command(options)
    except (FileError, UnknownCandidateError) as error:
        sys.stderr.write(f"{error}\n")
        return BROKEN
    return status


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python -m harness", description=__doc__.partition("\n")[0])
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    sub = command(commands, "run", command_run, "judge candidates, by default all built-in ones")
    sub.add_argument(
        "--candidate",
        action="append",
        metavar="NAME",
        help="built-in name, package.module, path/to/file.py or a program; may be repeated",
    )
    sub.add_argument("--case", default="*", metavar="GLOB", help="only the cases that match")
    sub.add_argument(
        "--require",
        action="append",
        default=[],
        type=required_level,
        metavar="NAME:LEVEL",
        help=f"fail unless NAME passes at LEVEL ({', '.join(LEVELS)}) or above",
    )
    sub.add_argument(
        "--time-limit",
        type=float,
        default=Limits.silent_seconds,
        metavar="SECONDS",
        help="time for one case, loading included",
    )
    sub.add_argument("--keep", type=Path, metavar="DIR", help="keep job and answer folders in a new folder")
    report_options(sub)

    sub = command(commands, "judge", command_judge, "judge an answer folder that was written elsewhere")
    sub.add_argument("job", type=Path, metavar="JOB", help="the job folder")
    sub.add_argument("out", type=Path, metavar="OUT", help="the folder of answers")
    report_options(sub)

    sub = command(commands, "capture", command_capture, "write golden fixtures with the canonical JAX model")
    sub.add_argument(
        "--out", type=Path, default=GOLDEN, metavar="DIR", help="the golden set to write (default: golden/v1)"
    )
    sub.add_argument(
        "--replace",
        action="append",
        default=[],
        metavar="GLOB",
        help="presets and cases that may change; needs --reason",
    )
    sub.add_argument("--reason", default="", metavar="TEXT", help="why they change, for CHANGELOG.md")

    sub = command(commands, "check-golden", command_check, "verify every file, tensor and digest of a golden set")
    sub.add_argument("directory", nargs="?", type=Path, default=GOLDEN, metavar="DIR")
    return top


def command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run_it: Callable[[argparse.Namespace], int],
    text: str,
) -> argparse.ArgumentParser:
    """Add one command."""
    sub = commands.add_parser(name, help=text, description=text)
    sub.set_defaults(command=run_it)
    return sub


def report_options(sub: argparse.ArgumentParser) -> None:
    """Add what `run` and `judge` have in common."""
    sub.add_argument("--golden", type=Path, default=GOLDEN, metavar="DIR", help="the golden set (default: golden/v1)")
    sub.add_argument("--json", type=Path, metavar="FILE", help="write everything that was found")
    sub.add_argument("--junit", type=Path, metavar="FILE", help="write a JUnit report")


def required_level(text: str) -> tuple[str, str]:
    """Parse NAME:LEVEL."""
    name, _, level = text.rpartition(":")
    if not name or level not in LEVELS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME:LEVEL with a level of {', '.join(LEVELS)}")
    return name, level


def command_run(options: argparse.Namespace) -> int:
    """Judge candidates over the golden cases."""
    golden = open_golden(options.golden)
    names = list(dict.fromkeys([*(options.candidate or builtin_names()), *(name for name, _ in options.require)]))
    candidates = [find_candidate(name) for name in names]
    groups = run.read_groups(golden, options.case)
    num_cases = sum(len(group.cases) for group in groups) * len(candidates)
    if options.keep is not None and options.keep.exists():
        raise FileError(f"{options.keep}: exists already: give a new folder")
    with tempfile.TemporaryDirectory() as scratch, progress_bar(num_cases) as advance:
        judgements = run.run_candidates(
            candidates,
            groups,
            golden.manifest.suite,
            options.keep or Path(scratch),
            Limits(silent_seconds=options.time_limit),
            advance,
        )
    return conclude([judgement.verdict for judgement in judgements], golden, options, dict(options.require))


def command_judge(options: argparse.Namespace) -> int:
    """Judge answers written elsewhere."""
    golden = open_golden(options.golden)
    return conclude([run.judge_folder(golden, options.job, options.out)], golden, options, {})


def conclude(
    verdicts: Sequence[CandidateVerdict], golden: Golden, options: argparse.Namespace, required: dict[str, str]
) -> int:
    """Show a run, write its reports, and return the exit status."""
    terminal.show(terminal.wide_console(), verdicts, golden)
    if options.json is not None:
        files.write_report_json(options.json, verdicts, golden)
    if options.junit is not None:
        files.write_junit(options.junit, verdicts)
    ranks = ("none", *LEVELS)
    low = [v.name for v in verdicts if v.name in required and ranks.index(v.level) < ranks.index(required[v.name])]
    for name in low:
        sys.stderr.write(f"{name}: its level is below the required {required[name]}\n")
    return PASS if not low and all(verdict.passed for verdict in verdicts) else NONCONFORMING


def command_capture(options: argparse.Namespace) -> int:
    """Write a golden set; what is replaced is noted in CHANGELOG.md."""
    from harness import capture  # noqa: PLC0415 - only this command needs the synthetic weights and the suite

    if bool(options.replace) != bool(options.reason):
        raise FileError(
            "--replace needs --reason TEXT, and the other way round: a golden never changes without a reason"
        )
    groups = capture.suite_groups()
    with progress_bar(sum(len(group.cases) for group in groups)) as advance:
        manifest = capture.capture(options.out, groups, replace=options.replace, on_progress=advance)
    sys.stdout.write(f"{options.out}: {len(manifest.presets)} presets, {len(manifest.cases)} cases\n")
    return PASS


def command_check(options: argparse.Namespace) -> int:
    """Verify a golden set."""
    check_golden(options.directory)
    sys.stdout.write(f"{options.directory}: every file, tensor and digest is as the manifest says\n")
    return PASS


if __name__ == "__main__":
    sys.exit(main())
