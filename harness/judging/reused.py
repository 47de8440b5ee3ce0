"""A verdict of an earlier run, taken over since nothing that it depends on has changed, and shown as such."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

from grok_conformance.harness.judging.verdict import CandidateVerdict


@dataclass(frozen=True)
class EarlierRun:
    """When a run began (ISO 8601, UTC), the seed that it drew by, and the digest of what it found."""

    date: str
    seed: int
    digest: str

    def __str__(self) -> str:
        """The run in words, to the minute."""
        return f"{datetime.fromisoformat(self.date).astimezone(UTC):%Y-%m-%d %H:%M} UTC with --seed {self.seed}"


@dataclass(frozen=True, kw_only=True)
class ReusedVerdict(CandidateVerdict):
    """The verdict of the earlier run `reused`, on what that drew."""

    reused: EarlierRun

    @property
    def summary(self) -> str:
        """The status as it is shown, from which run it is, and why it holds."""
        return f"{super().summary}; reused from {self.reused}: nothing that it depends on has changed"


def reused_from(run: EarlierRun, verdict: CandidateVerdict) -> ReusedVerdict:
    """Return a verdict as that of an earlier run."""
    found: dict[str, Any] = {field.name: getattr(verdict, field.name) for field in fields(CandidateVerdict)}
    return ReusedVerdict(**found, reused=run)
