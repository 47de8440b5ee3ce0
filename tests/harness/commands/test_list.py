from __future__ import annotations

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.cases.drawn import stored_id
from grok_conformance.harness.commands.asked_names import drawn_cases, drawn_presets
from grok_conformance.harness.contract import tap_specs
from grok_conformance.harness.faults import ALL_FAULTS
from grok_conformance.harness.judging.selection import asked_groups
from grok_conformance.harness.running.registry import builtin_names
from tests.harness.honest_port import golden


def listed(what: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    assert main(["list", what, *arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return {name: meaning.strip() for name, _, meaning in (line.partition(" ") for line in lines)}


def test_everything_there_is_has_a_line_with_its_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    known = {
        "cases": [*golden().manifest.cases, *drawn_cases()],
        "presets": [*golden().manifest.presets, *drawn_presets()],
        "taps": [spec.name for spec in tap_specs()],
        "candidates": builtin_names(),
        "faults": ALL_FAULTS,
    }
    for what, names in known.items():
        found = listed(what, capsys)
        assert set(found) == set(names)
        assert all(found.values())


@pytest.mark.parametrize("pattern", ["probe_*", "sweep_*"])
def test_what_is_drawn_is_listed_under_the_names_that_run_knows(
    pattern: str, capsys: pytest.CaptureFixture[str]
) -> None:
    groups = asked_groups(golden(), pattern, seed=3)
    cases = {stored_id(case.id): case.why for group in groups for case in group.cases}
    assert listed("cases", capsys, pattern) == cases
    assert set(listed("presets", capsys, pattern)) == {group.preset.name for group in groups}


def test_a_pattern_lists_only_the_names_that_match(capsys: pytest.CaptureFixture[str]) -> None:
    found = listed("cases", capsys, "stress/*.float32")
    assert found == {
        "stress/prefill/saturated_cap.float32": "attention logits near the cap of 30 and large expert activations"
    }
