"""Faults gated on sizes, counts and histories, in a real port: a sweep meets each of them, and honest ports pass."""

from __future__ import annotations

import pytest

from grok_conformance.harness.judging.groups import sweep_groups
from grok_conformance.harness.judging.narrowing import Narrow
from grok_conformance.harness.judging.verdict import CandidateVerdict
from grok_conformance.harness.running.in_process import adapter_of
from grok_conformance.harness.sessions.in_process import judge_adapter
from tests.conformance.gated_ports import GATED

SEED = 5


def judged(pattern: str) -> CandidateVerdict:
    return judge_adapter(adapter_of("torch_eager"), sweep_groups(SEED, pattern), Narrow()).verdict


@pytest.mark.parametrize("name", GATED)
def test_a_fault_that_hangs_on_a_size_a_count_or_a_history_is_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for (module, attribute), replacement in GATED[name].patches.items():
        monkeypatch.setattr(module, attribute, replacement)
    if "TorchModel" in {attribute for _, attribute in GATED[name].patches}:
        monkeypatch.setattr("grok_conformance.candidates.torch_eager.TorchModel", replacement)
    assert judged(GATED[name].case).status == "fail"


@pytest.mark.parametrize("pattern", sorted({gated.case for gated in GATED.values()}))
def test_an_honest_port_passes_the_same_sweeps(pattern: str) -> None:
    verdict = judged(pattern)
    assert verdict.passed, [(case.case, case.reason) for case in verdict.cases]
