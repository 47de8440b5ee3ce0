"""amdsharktank judged: what it does otherwise than Grok-1 is named, and its adapter is short."""

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

CASE = "square/prefill/padded_batch.float32"


def judge(folder: Path, waivers: tuple[Waiver, ...] = ()) -> CandidateVerdict:
    pytest.importorskip("amdsharktank", reason="needs the extra amdsharktank")
    golden = open_golden(GOLDEN_DIR / "v1")
    groups, limits = read_groups(golden, CASE), Limits()
    found = find_candidate("amdsharktank")
    (judged,) = run_candidates([found], groups, golden.manifest.suite, folder, limits, waivers=waivers)
    return judged.verdict


def test_two_operations_deviate_and_their_faults_are_named(tmp_path: Path) -> None:
    verdict = judge(tmp_path)
    failing = {row.operation: row.diagnosis for row in verdict.operations if row.status != "pass"}
    assert set(failing) == {"embedding", "moe.output"}
    assert "embedding_multiplier_sqrt_d" in getattr(failing["embedding"], "faults", ())
    assert getattr(failing["moe.output"], "faults", ()) == ("gelu_erf",)


def test_with_its_known_deviations_it_passes(tmp_path: Path) -> None:
    verdict = judge(tmp_path, builtin_waivers())
    assert verdict.summary == "pass (caches) with 2 known deviations"


def test_the_adapter_takes_sixty_lines_besides_its_imports_and_what_is_said_of_it() -> None:
    assert num_lines("amdsharktank") <= 60
