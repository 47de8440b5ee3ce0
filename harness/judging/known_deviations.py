"""The waivers in force in a run, and those that a run shows to be needed no longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from grok_conformance.harness.golden.reading import Golden
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import (
    Waiver,
    builtin_waivers,
    check_cases,
    outdated,
    read_waivers,
    waivers_of,
)


def known_deviations(path: Path | None, golden: Golden) -> tuple[Waiver, ...]:
    """Return the waivers of the built-in candidates, and those of the user's file if there is one; raises FileError."""
    given = read_waivers(path) if path is not None else ()
    check_cases(given, golden.manifest.cases)
    return (*builtin_waivers(), *given)


def with_outdated(verdict: CandidateVerdict, waivers: Sequence[Waiver], golden: Golden) -> CandidateVerdict:
    """Add the waivers of a candidate that have expired, or that this run shows to be needed no longer."""
    if not verdict.operations:  # it did not run here
        return verdict
    used = {waiver.name for waiver in verdict.waivers}
    ran = {case.case for case in verdict.cases}
    today = datetime.now(UTC).date()
    known = waivers_of(waivers, verdict.name)
    return replace(verdict, outdated=outdated(known, used, ran, golden.manifest.cases, today))
