from __future__ import annotations

import re

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.glossary import LEVELS as MEANT
from grok_conformance.harness.contract import LEVELS
from grok_conformance.harness.faults import FAULTS
from grok_conformance.harness.graph.grok_1 import OPERATIONS
from grok_conformance.harness.judging.verdict import PASSING, SEVERITY


@pytest.mark.parametrize("status", SEVERITY)
def test_every_verdict_is_explained_and_only_a_pass_has_exit_status_0(
    status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", status]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{status}: a verdict\n  means        ")
    assert output.endswith("exit status  0\n" if status in PASSING else "exit status  1\n")


@pytest.mark.parametrize("name", [operation.name for operation in OPERATIONS])
def test_every_operation_is_explained_from_the_graph_and_the_contract(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", name]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{name}: an operation (SPEC §")
    assert all(word in output for word in ("gives", "tap", "reads", "compared", "honest runs"))


def test_an_operation_says_how_far_honest_runs_go(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "moe.output"])
    output = capsys.readouterr().out
    assert re.search(r"honest runs +reach .* allowed: 0\.99\d in bfloat16 \(tail\), 0\.\d{3} in float32 \(", output)


def test_an_operation_names_its_permitted_alternatives(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "attention.logits"])
    assert "may also be  q·k not rounded before it is scaled" in capsys.readouterr().out


def test_of_many_ways_a_few_are_told_after_the_faults(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "attention.query"])
    output = capsys.readouterr().out
    assert "  may also be  3 partial sums, each rounded, added in float32\n" in output
    assert re.search(r"^ +and \d{3} more such$", output, re.MULTILINE)
    assert len(output.splitlines()) < 100
    assert output.rindex("can have") < output.index("may also be")


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_is_explained_from_the_table(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"{name}: a fault of {FAULTS[name].kind}")
    assert FAULTS[name].explanation in output
    assert FAULTS[name].provenance in output


def test_an_operation_names_the_faults_that_show_there(capsys: pytest.CaptureFixture[str]) -> None:
    main(["explain", "moe.expert_hidden"])
    assert "can have     gelu_erf: " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["layers.03.moe.norm", "call1/layers.00.moe.norm", "layers.*.moe.norm"])
def test_a_tap_is_explained_as_its_operation(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", name]) == 0
    assert capsys.readouterr().out.startswith("moe.norm: an operation")


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_is_explained(level: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", level]) == 0
    assert f"{level}: a level\n  means        {MEANT[level]}\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    "word",
    ["end to end", "left open", "history", "tapping", "randomness", "memory", "concurrency", "bulk", "contrast",
     "power", "fence", "level", "quirk", "diagnosis", "resembles", "measured / allowed", "rounds elsewhere"],
)  # fmt: skip
def test_the_words_of_reports_are_explained(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", word]) == 0
    assert capsys.readouterr().out.startswith(f"{word}: a ")


@pytest.mark.parametrize(
    ("written", "known"),
    [
        ("end-to-end", "end to end"), ("End_to_End", "end to end"), ("fences", "fence"),
        ("known-deviations", "known deviation"),
        ("Gelu-ERF", "gelu_erf"), ("classes of faults", "class of faults"), ("near ties", "near-tie"),
        ("quirks", "quirks"),
        ("inconclusives", "inconclusive"), ("PROBE-MOE", "probe_moe"),
    ],
)  # fmt: skip
def test_a_name_is_found_however_it_is_written(written: str, known: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", written]) == 0
    assert capsys.readouterr().out.startswith(f"{known}: a ")


def test_a_suggestion_names_nothing_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "logits_last"]) == 2
    (_, told) = capsys.readouterr().err.split("did you mean ")
    names = told.rstrip("?\n").split(" or ")
    assert len(set(names)) == len(names)


def test_a_name_that_nothing_has_is_refused_with_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "oracel"]) == 2
    assert "did you mean oracle" in capsys.readouterr().err
