"""Laws on a terminal: a row for each, and for one that is broken the model that breaks it."""

from __future__ import annotations

import io

from rich.console import Console

from grok_conformance.harness.laws.check import Result
from grok_conformance.harness.laws.draws import Draw
from grok_conformance.harness.laws.findings import Finding
from grok_conformance.harness.laws.laws import LAWS
from grok_conformance.harness.report.laws import explain, show

LAW = next(law for law in LAWS if not law.bitwise)
KEPT = Result(LAW, Finding(LAW, Draw(), "pass", 0.25), num_draws=3, held=3, bitwise=1)
BROKEN = Result(LAW, Finding(LAW, Draw(num_tokens=3), "fail", 12.5, bitwise=False, where="logits, row 0"), 3, 1, 0)


def shown(*results: Result) -> str:
    console = Console(file=io.StringIO(), width=200)
    show(console, "port", results)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_law_that_is_kept_is_a_row_and_no_more() -> None:
    output = shown(KEPT)
    (row,) = (line.split() for line in output.splitlines() if line.split()[:1] == [LAW.name])
    assert row[1] == "pass"
    assert "3 of 3 draws" in output
    assert "reproduce" not in output


def test_a_law_that_is_broken_is_explained_with_a_command_that_shows_it_again() -> None:
    assert "differs   at logits, row 0: 12.5 times what two honest runs may" in shown(BROKEN)
    command = f"properties --candidate port --law {LAW.name} --draw 'num_tokens=3'"
    assert command in explain("port", BROKEN).splitlines()[-1]


def test_a_reason_is_told_where_nothing_was_compared() -> None:
    refused = Result(LAW, Finding(LAW, Draw(), "unsupported", where="seven experts"), 0, 0, 0)
    assert "reason    seven experts" in explain("port", refused)
