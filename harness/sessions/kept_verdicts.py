"""Verdicts of earlier runs, kept in a folder: a file for each candidate and what it was asked, the last one alone.

The first line of a file says what the verdict depends on, the second holds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from grok_conformance.harness.formats.files import MAX_REPORT_BYTES, FileError, parse_json, whole_file
from grok_conformance.harness.formats.typed import typed
from grok_conformance.harness.judging.reused import EarlierRun, ReusedVerdict, reused_from
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.program_files import GONE, known_as
from grok_conformance.harness.sessions.dependencies import Dependencies, of_no_package

FORMAT = 1

SUFFIX = ".verdict"
NUM_DIGITS = 16
"""Digits of what was asked in the name of a file."""

LASTS = timedelta(hours=12)
"""How old a verdict may be: then other tokens and weights are due, once on every working day."""


@dataclass(frozen=True)
class Kept:
    """What the first line of a file says: `sha256` is the verdict's.

    `programs` are the files that a candidate loaded, and what each is known by.
    """

    format: int
    run: EarlierRun
    depends_on: Mapping[str, str]
    programs: Mapping[str, str]
    sha256: str


def path_of(folder: Path, candidate: str, asked: str) -> Path:
    """Return where the verdict on a candidate is kept; `asked` is the digest of the options."""
    return folder / f"{candidate}.{asked[:NUM_DIGITS]}{SUFFIX}"


def is_full_pass(verdict: CandidateVerdict) -> bool:
    """Return whether every case of a verdict passes, and nothing was left out, waived or taken over."""
    whole = not verdict.narrowed and not isinstance(verdict, ReusedVerdict)
    return whole and verdict.status == "pass" and all(case.status == "pass" for case in verdict.cases)


def speaks_against(verdict: CandidateVerdict) -> bool:
    """Return whether a verdict casts doubt on earlier passes of its candidate; a part that passes does not."""
    return verdict.status != "pass" or not (verdict.narrowed or all(case.status == "pass" for case in verdict.cases))


def write_kept(
    path: Path, found: Mapping[str, Any], run: EarlierRun, depends_on: Dependencies, programs: Mapping[str, str]
) -> None:
    """Keep what is told of a verdict, whole or not at all.

    Raises FileError for a program that is gone, OSError for a disk that refuses.
    """
    body = as_json(found)
    others = of_no_package(programs)
    if reason := changed_program(others):
        raise FileError(f"while the candidates ran, {reason}")
    head = as_json(asdict(Kept(FORMAT, run, depends_on, others, hashlib.sha256(body).hexdigest())))
    if path.exists() and not path.is_file():
        raise FileError(f"{path}: no regular file")
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(head + b"\n" + body + b"\n")


def as_json(value: Any) -> bytes:
    """Return a value as JSON on one line."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def read_kept(path: Path) -> tuple[Kept, bytes] | None:
    """Read what is kept of a verdict, its text unread, None where nothing is; raises FileError for anything else."""
    if not path.exists():
        return None
    try:
        if not path.is_file() or path.stat().st_size > MAX_REPORT_BYTES:
            raise ValueError("no regular file, or a large one")
        head, _, body = path.read_bytes().removesuffix(b"\n").partition(b"\n")
        kept = typed(Kept, parse_json(head))
        datetime.fromisoformat(kept.run.date).astimezone(UTC)
        if kept.format != FORMAT or hashlib.sha256(body).hexdigest() != kept.sha256:
            raise ValueError("another format, or cut short")
    except (OSError, OverflowError, ValueError) as error:
        raise FileError(f"{path}: not the verdict of an earlier run ({error})") from None
    return kept, body


def read_verdict(path: Path, kept: Kept, body: bytes) -> ReusedVerdict:
    """Return the verdict that is kept; raises FileError for what is no full pass of the candidate named in its path."""
    try:
        found = typed(CandidateVerdict, parse_json(body))
        if not is_full_pass(found) or not path.name.startswith(f"{found.name}."):
            raise ValueError("no pass, or another candidate's")
        return reused_from(kept.run, found)
    except ValueError as error:
        raise FileError(f"{path}: not the verdict of an earlier run ({error})") from None


def why_not(kept: Kept, on: Dependencies, seed: int | None, now: datetime) -> str:
    """Return why a kept verdict is not that of a run now, an empty string where it is.

    `on` is what the run depends on, `seed` the one that is asked for, None where any will do.
    """
    age = now - datetime.fromisoformat(kept.run.date).astimezone(UTC)
    if not timedelta(0) <= age < LASTS:
        return f"its verdict is not of the last {LASTS.total_seconds() / 3600:.0f} hours"
    if seed not in (None, kept.run.seed):
        return f"its verdict is of --seed {kept.run.seed}"
    if reason := changed(kept.depends_on, on):
        return reason
    return changed_program(kept.programs)


def changed_program(programs: Mapping[str, str]) -> str:
    """Return the first file that is not known by the same as when it was loaded, in words, an empty string if none."""
    for path, known in programs.items():
        now = known_as(path)
        if GONE in (known, now):
            return f"{path}: gone since it was loaded"
        if now != known:
            return f"{path}: changed since it was loaded"
    return ""


def changed(before: Dependencies, now: Dependencies) -> str:
    """Return the first thing that is not as it was before, in words, an empty string where all is."""
    return next((f"{name} has changed" for name in {**before, **now} if before.get(name) != now.get(name)), "")


def remove_old(folder: Path, now: datetime) -> None:
    """Remove the verdicts that have expired, and what a run that was killed left of one."""
    for path in kept_files(folder, f"*{SUFFIX}*"):
        with contextlib.suppress(OSError):
            if now - datetime.fromtimestamp(path.lstat().st_mtime, UTC) > LASTS:
                path.unlink()


def forget(folder: Path, candidates: Iterable[str]) -> None:
    """Remove all verdicts on some candidates: of one that does not pass, no earlier pass is told any more."""
    for name in candidates:
        for path in kept_files(folder, f"{name}.*{SUFFIX}"):
            with contextlib.suppress(OSError):
                path.unlink()


def kept_files(folder: Path, pattern: str) -> Iterator[Path]:
    """Yield the files of a folder, hidden ones too, that a glob pattern matches."""
    with contextlib.suppress(OSError):
        yield from list(folder.glob(pattern))
