"""What is told of a verdict, as JSON holds it: in reports, in what a run keeps, and by the digest of what it found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from grok_conformance.harness.formats.files import plain
from grok_conformance.harness.judging.reused import ReusedVerdict
from grok_conformance.harness.judging.verdict import CandidateVerdict


@dataclass(frozen=True)
class Told:
    """A verdict as parsed JSON, and the sha256 of what it found."""

    found: Mapping[str, Any]
    digest: str


def told_of(verdict: CandidateVerdict) -> Told:
    """Return what is told of a verdict; one that is reused keeps its own digest."""
    found = plain(without_honest(verdict))
    return Told(found, verdict.reused.digest if isinstance(verdict, ReusedVerdict) else digest_of(found))


def conformance_digest(verdict: CandidateVerdict) -> str:
    """Return the sha256 of what a conformance run tells, times left out: what a benchmark result is earned under.

    Equal digests mean the same candidate, version, level, cases and figures.
    """
    return told_of(verdict).digest


def digest_of(found: Mapping[str, Any]) -> str:
    """Return the sha256 of a verdict as JSON, without times and without what follows from its cases alone."""
    cases = [{**case, "seconds": None} for case in found["cases"]]
    lasting = {**found, "cases": cases, "seconds": 0.0, "judging_seconds": 0.0, "powers": [], "coverage": []}
    return hashlib.sha256(json.dumps(lasting, sort_keys=True).encode()).hexdigest()


def without_honest(verdict: CandidateVerdict) -> CandidateVerdict:
    """Leave out the systematic statistics of single taps within what is allowed: the operations hold them pooled."""
    cases = (
        replace(case, comparisons=tuple(
            replace(comparison, systematic=tuple(one for one in comparison.systematic if one.ratio > 1))
            for comparison in case.comparisons
        ))
        for case in verdict.cases
    )  # fmt: skip
    return replace(verdict, cases=tuple(cases))
