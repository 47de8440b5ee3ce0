"""EasyDeL judged: what it does otherwise than Grok-1 is named, and its adapter is short."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.golden.reading import open_golden
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.judging.waivers import Waiver, builtin_waivers
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates
from tests.candidates.adapter_length import num_lines

CASES = "square*/prefill/*"


def judge(folder: Path, waivers: tuple[Waiver, ...] = ()) -> CandidateVerdict:
    pytest.importorskip("easydel", reason="needs the extra easydel, in an environment of its own")
    golden = open_golden(GOLDEN_DIR / "v1")
    groups, limits = read_groups(golden, CASES), Limits(silent_seconds=600)  # importing it takes long
    found = find_candidate("easydel")
    (judged,) = run_candidates([found], groups, golden.manifest.suite, folder, limits, waivers=waivers)
    return judged.verdict


@pytest.mark.timeout(900)
def test_with_its_known_deviations_it_passes(tmp_path: Path) -> None:
    verdict = judge(tmp_path, builtin_waivers())
    assert verdict.passed
    assert {case.case.rpartition(".")[2] for case in verdict.cases} == {"float32", "bfloat16"}


def test_the_adapter_takes_sixty_lines_besides_its_imports_and_what_is_said_of_it() -> None:
    assert num_lines("easydel") <= 60
