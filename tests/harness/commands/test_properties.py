"""`python -m grok_conformance properties`, and `run --properties`: status, table, how to see a broken law again."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import properties
from grok_conformance.harness.laws.check import Result
from grok_conformance.harness.running import registry
from grok_conformance.harness.running.registry import Candidate, default_names

BROKEN = """
from grok_conformance.candidates import numpy_float64

INFO = numpy_float64.INFO

def load(config, weights):
    model = numpy_float64.load(config, weights)
    prefill = model.prefill
    def leaking(tokens, lengths, taps):
        shown = prefill(tokens, lengths, taps)
        return {**shown, "logits": shown["logits"] + tokens.sum().astype(shown["logits"].dtype)}
    model.prefill = leaking
    return model
"""
REFUSING = """
from grok_conformance.harness.contract import CandidateInfo, Unsupported

INFO = CandidateInfo(name="refusing", version="1")

def load(config, weights):
    raise Unsupported("nothing of the kind")
"""


def test_an_honest_port_keeps_a_law_and_exits_with_0(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--candidate", "numpy_float64", "--law", "causality", "--law", "doubling", "--draw", "num_tokens=3"]
    assert main(["properties", *arguments]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["causality", "pass", "rounding", "1", "of", "1", "draw", "1", "0"] in rows
    assert ["doubling", "pass", "every", "bit", "1", "of", "1", "draw", "1", "0"] in rows


def test_a_broken_law_exits_with_1_and_says_how_to_see_it_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = tmp_path / "port.py"
    port.write_text(BROKEN)
    arguments = ["--candidate", str(port), "--law", "causality", "--draw", "batch_size=2 num_tokens=3"]
    assert main(["properties", *arguments]) == 1
    said = capsys.readouterr().out
    assert f"{port}: causality: fail: a later token changes no earlier output" in said
    assert "differs   at logits, row 0" in said
    again = next(line for line in said.splitlines() if "reproduce" in line)
    assert f"python -m grok_conformance properties --candidate {port} --law causality --draw '" in again


def test_a_port_that_refuses_every_model_does_not_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = tmp_path / "port.py"
    port.write_text(REFUSING)
    assert main(["properties", "--candidate", str(port), "--law", "causality", "--draws", "1"]) == 1
    said = capsys.readouterr().out
    assert "causality: unsupported" in said
    assert "nothing of the kind" in said


def test_the_main_job_checks_laws_when_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = tmp_path / "port.py"
    port.write_text(REFUSING)
    assert main(["run", "--candidate", str(port), "--properties"]) == 1
    assert "vocabulary_permutation" in capsys.readouterr().out


@pytest.mark.parametrize(
    "unused",
    [
        ["--require", "no_such_port:caches"],
        ["--json", "x.json"],
        ["--case", "zzz"],
        ["--keep", "kept"],
        ["--update-baseline"],
        ["--quiet"],
    ],
)
def test_options_that_the_laws_make_no_use_of_are_refused(
    unused: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--candidate", "numpy_float64", "--properties", *unused]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{unused[0]}: the laws make no use of it: leave it out, or --properties"


@pytest.mark.parametrize("arguments", [["properties"], ["run", "--properties"]])
def test_only_candidates_that_a_run_judges_and_whose_extras_are_here_are_checked_unless_named(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    checked: list[str] = []

    def check(candidate: Candidate, **_: object) -> list[Result]:
        checked.append(candidate.name)
        return []

    monkeypatch.setattr(properties, "check_properties", check)
    monkeypatch.setattr(registry, "missing_extra", lambda name: "torch" if name == "torch_eager" else "")
    assert main(arguments) == 0
    assert checked == [name for name in default_names() if name != "torch_eager"]
    assert capsys.readouterr().err == "torch_eager: left out: extra torch is not installed (pip install '.[torch]')\n"
    checked.clear()
    main([*arguments, "--candidate", "torch_eager"])
    assert checked == ["torch_eager"]


@pytest.mark.parametrize("number", ["0", "-1", "two"])
def test_the_number_of_draws_is_above_0(number: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["properties", "--candidate", "numpy_float64", "--draws", number])
    assert ended.value.code == 2
    assert f"argument --draws: '{number}' is not a whole number above 0" in capsys.readouterr().err
