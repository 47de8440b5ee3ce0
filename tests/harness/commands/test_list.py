from __future__ import annotations

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.running.registry import builtin_names
from tests.harness.honest_port import golden


def listed(what: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["list", what, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: meaning.strip() for name, _, meaning in (line.partition(" ") for line in lines)}


def test_everything_there_is_has_a_line_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "cases": golden().manifest.cases,
        "presets": golden().manifest.presets,
        "taps": [spec.name for spec in tap_specs()],
        "candidates": builtin_names(),
        "faults": ALL_FAULTS,
    }
    for what, names in known.items():
        found = listed(what, capsys)
        assert set(found) == set(names)
        assert all(found.values())


def test_a_pattern_lists_only_the_names_that_match(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed("cases", capsys, "stress/*.float32")
    assert found == {
        "stress/prefill/saturated_cap.float32": "attention logits near the cap of 30 and large expert activations"
    }
