"""Names of presets and cases, stored and drawn: why each exists, and how it is asked for."""

from __future__ import annotations

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.cases.probes import PROBES
from grok_conformance.harness.cases.suite import PRESETS
from grok_conformance.harness.cases.sweeps import SWEEPS
from grok_conformance.harness.commands.asked_names import all_names, asked_cases, asked_presets, without_dtype


@pytest.mark.parametrize("name", all_names())
def test_every_preset_and_case_is_explained_by_why_it_exists(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    output = capsys.readouterr().out
    why = (asked_presets() | asked_cases())[name].why
    assert output.startswith(f"{name}: a ")
    assert f"exists for   {why}\n" in output
    assert f"--case '{name}" in output or f"--case {name}" in output


def test_presets_are_those_of_the_suite_the_probes_and_the_sweeps() -> None:
    assert list(asked_presets()) == [*PRESETS, *PROBES, *(f"sweep_{sweep.name}" for sweep in SWEEPS)]


def test_a_probe_tells_its_cases_and_a_sweep_what_its_requests_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "probe_moe"])
    assert "cases        probe_moe/prefill/rows\n" in capsys.readouterr().out
    main(["explain", "sweep_deep"])
    assert "twelve layers of sixteen experts" in capsys.readouterr().out


@pytest.mark.parametrize(
    "case_id", ["stress/prefill/saturated_cap.float32", "stress/prefill/saturated_cap~reweighted-7.bfloat16"]
)
def test_any_id_of_a_case_is_explained_as_the_case(case_id: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert without_dtype(case_id) == "stress/prefill/saturated_cap"
    assert main(["explain", case_id]) == 0
    assert "near the cap of 30" in capsys.readouterr().out


def test_a_name_of_no_case_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "probe_mo"]) == 2
    assert "did you mean probe_moe" in capsys.readouterr().err
