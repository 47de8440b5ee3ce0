"""`run --baseline`: the earlier runs of candidates, read before they run again, and what has changed since."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.baseline import (
    History,
    Record,
    append_history,
    has_baseline,
    read_baseline,
    read_history,
    write_baseline,
)
from grok_conformance.harness.judging.regression import Regression, compare_runs

T = TypeVar("T")

Earlier = tuple[Record | None, History]
"""A candidate's baseline, None where its first run becomes it, and the history of its runs."""


def earlier_runs(directory: Path | None, names: Sequence[str], *, update: bool) -> dict[str, Earlier]:
    """Read what is kept of candidates' earlier runs, before they run again; nothing without a folder.

    A candidate without one has its first run made the baseline. Raises FileError for what cannot be read, unless this
    run is to replace it.
    """
    if directory is None:
        return {}

    def kept(read: Callable[[Path, str], T], name: str, otherwise: T) -> T:
        try:
            return read(directory, name)
        except FileError:
            if not update:
                raise
            return otherwise

    return {
        name: (kept(read_baseline, name, None) if has_baseline(directory, name) else None, kept(read_history, name, ()))
        for name in names
    }


def compare_with_baselines(
    directory: Path | None, records: Sequence[Record], earlier: Mapping[str, Earlier], *, update: bool
) -> dict[str, Regression]:
    """Compare runs with the baselines of their candidates, and make them the baselines if asked to or if first."""
    if directory is None:
        return {}
    regressions = {}
    for record in records:
        old, history = earlier[record.candidate]
        date = datetime.now(UTC).isoformat(timespec="seconds")
        regressions[record.candidate] = compared = compare_runs(old or record, record, history, date)
        append_history(directory, record.candidate, compared.history[-1], afresh=update)
        if update or old is None:
            write_baseline(directory, record)
            told = f"this run is the baseline from now on, kept in {directory}"
            kept = compared if old else replace(compared, num_taps=0, num_identical=0, notes=())
            regressions[record.candidate] = replace(kept, notes=(*kept.notes, told))
    return regressions
