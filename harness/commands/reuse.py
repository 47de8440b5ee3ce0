"""`run --reuse`: verdicts of earlier runs, taken over where nothing that they depend on has changed, and kept."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from grok_conformance.harness.commands.narrow_options import CACHE
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.reused import EarlierRun, ReusedVerdict
from grok_conformance.harness.judging.told import told_of
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.program_files import read_program_files
from grok_conformance.harness.running.registry import builtin_names, default_names
from grok_conformance.harness.sessions.dependencies import Dependencies, bearing, dependencies, digest_of, unknowable
from grok_conformance.harness.sessions.kept_verdicts import (
    changed,
    forget,
    is_full_pass,
    path_of,
    read_kept,
    read_verdict,
    remove_old,
    speaks_against,
    why_not,
    write_kept,
)

VERDICTS = CACHE / "verdicts"
"""The verdicts that runs in this folder have kept."""

Programs = Mapping[str, Mapping[str, str]]
"""The files of the programs that each candidate ran, where they are known, and what each is known by."""


@dataclass(frozen=True)
class Keeping:
    """A run that keeps its verdicts: when it began, by what name it goes, and what its verdicts depend on."""

    began: datetime
    asked: str
    depends_on: Dependencies


def begin(options: argparse.Namespace) -> Keeping | None:
    """Return how a run keeps its verdicts; None where it is not asked to, or cannot, and then it says why."""
    if not (options.reuse or options.fresh):
        return None
    if reason := unknowable():
        note(f"no verdict is reused: {reason}")
        return None
    began = datetime.now(UTC)
    remove_old(VERDICTS, began)
    try:
        return Keeping(began, digest_of(bearing(options)), dependencies(options))
    except OSError as error:
        note(f"no verdict is reused: {error.filename}: {error.strerror}")
        return None


def taken_over(
    keeping: Keeping | None, candidates: Sequence[str], options: argparse.Namespace
) -> dict[str, ReusedVerdict]:
    """Return the verdicts of earlier runs that are those of this one, by candidate; says why another is not."""
    if keeping is None or not options.reuse:
        return {}
    known = [name for name in candidates if name in default_names()]
    for name in (each for each in candidates if each not in known):
        note(f"{name}: judged: only candidates of the main job are reused")
    found = {name: earlier_verdict(keeping, name, options) for name in known}
    return {name: verdict for name, verdict in found.items() if verdict is not None}


def earlier_verdict(keeping: Keeping, candidate: str, options: argparse.Namespace) -> ReusedVerdict | None:
    """Return the verdict of an earlier run on a candidate where it is that of this one; says why it is not."""
    path = path_of(VERDICTS, candidate, keeping.asked)
    try:
        kept = read_kept(path)
        if kept is None:
            return None
        reason = why_not(kept[0], keeping.depends_on, options.seed, keeping.began)
        if not reason:
            return read_verdict(path, *kept)
    except FileError as error:
        reason = str(error)
    note(f"{candidate}: judged again: {reason}")
    return None


def keep(
    keeping: Keeping | None,
    verdicts: Sequence[CandidateVerdict],
    programs: Programs,
    seed: int,
    options: argparse.Namespace,
) -> None:
    """Keep the verdicts of this run that a later one may take over, and forget earlier ones that it speaks against."""
    doubt(each.name for each in verdicts if speaks_against(each))
    known = [name for name in default_names() if programs.get(name)]
    full = [each for each in verdicts if is_full_pass(each) and each.name in known]
    if keeping is None or not full:
        return
    try:
        reason = changed(keeping.depends_on, dependencies(options))
    except OSError as error:
        reason = f"{error.filename}: {error.strerror}"
    if reason:
        note(f"no verdict is kept for later: while the candidates ran, {reason}")
        return
    for verdict in full:
        told = told_of(verdict)
        run = EarlierRun(keeping.began.isoformat(timespec="seconds"), seed, told.digest)
        path = path_of(VERDICTS, verdict.name, keeping.asked)
        try:
            write_kept(path, told.found, run, keeping.depends_on, programs[verdict.name])
        except OSError as error:
            note(f"{verdict.name}: its verdict is not kept for later: {error.filename}: {error.strerror}")
        except FileError as error:
            note(f"{verdict.name}: its verdict is not kept for later: {error}")


def doubt(candidates: Iterable[str]) -> None:
    """Forget the kept verdicts on candidates that have failed since, built-in ones alone having any."""
    forget(VERDICTS, [name for name in candidates if name in builtin_names()])


def programs_in(answers: Path) -> dict[str, str]:
    """Return the files of the programs that gave answers, one folder per job, and what each is known by.

    None where a job does not tell, or tells otherwise than another.
    """
    try:
        found = [read_program_files(job) for job in sorted(answers.iterdir())]
    except FileError:
        return {}
    merged = {file: known for each in found for file, known in each.items()}
    return merged if all(merged[file] == known for each in found for file, known in each.items()) else {}


def note(line: str) -> None:
    """Tell what the run goes on without."""
    sys.stderr.write(f"{line}\n")
