"""Programs run and judged over golden cases."""

from __future__ import annotations

from pathlib import Path

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates


def judge(program: Path, folder: Path, cases: str) -> CandidateVerdict:
    """Return the verdict on a program over the golden cases that match; its answers stay below the folder."""
    golden = open_golden(GOLDEN_DIR / "v1")
    candidate, groups = find_candidate(str(program)), read_groups(golden, cases)
    limits = Limits(silent_seconds=60)
    (judgement,) = run_candidates([candidate], groups, golden.manifest.suite, folder, limits)
    return judgement.verdict
