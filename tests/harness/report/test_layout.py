from __future__ import annotations

import shlex

import pytest

from grok_conformance.harness.report.layout import broken, is_command

COMMAND = (
    "grok-conformance run --candidate 'my port.py' --case unequal/prefill/padded_batch.float32 --operation moe.norm"
)


@pytest.mark.parametrize("width", [40, 80, 100])
@pytest.mark.parametrize("word", ["  reproduce ", "  first: "])
def test_a_command_that_is_broken_is_the_same_to_a_shell(word: str, width: int) -> None:
    lines = broken(word + COMMAND, width)
    assert len(lines) > 1
    assert all(line.endswith(" \\") for line in lines[:-1])
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == shlex.split(word + COMMAND)
    assert all(len(line) <= width for line in lines if len(line.split()) > 2)  # a word alone may be longer


def test_what_fits_and_what_is_no_command_of_a_shell_stays_as_it_is() -> None:
    for line in ("  reproduce ls", "  diagnosis " + "no " * 90, "  reproduce grok_conformance.judge(" + "'a', " * 90):
        assert broken(line, 80) == [line]
    assert is_command("  reproduce ls")
    assert not is_command("  where     only decode steps")
