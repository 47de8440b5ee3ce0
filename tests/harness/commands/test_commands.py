"""The command line as a whole: it starts at once, helps, and writes no colour into pipes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import COMMANDS, EXIT_STATUS
from grok_conformance.harness.commands.list import TABLES

MAIN = "from grok_conformance.harness.__main__ import main"
JUDGE = "grok_conformance.harness.judging.judge"
ENGINES = ("jax", "haiku", "torch")
STARTS_AT_ONCE = [["--help"], ["run", "--help"], ["explain", "gelu_erf"], *(["list", what] for what in TABLES)]
NEED_ARRAYS = [["explain", "gelu_erf"], ["list", "faults"], ["list", "cases"], ["list", "presets"]]
"""What tells rows of tables that hold functions of NumPy arrays, or reads a golden set, which is held to its checks."""


def python(program: str, *arguments: str) -> str:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - this very Python


def run(*arguments: str) -> str:
    """Run a command line in a fresh process that cannot import an engine, and return what it writes."""
    program = f"import sys; sys.modules |= dict.fromkeys({ENGINES!r}); {MAIN}; sys.exit(main())"
    return python(program, *arguments)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_helps_with_an_example_and_its_exit_statuses(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main([name, "--help"])
    output = capsys.readouterr().out
    assert f"python -m grok_conformance {name} {COMMANDS[name].example}" in output
    assert EXIT_STATUS in output


def test_help_names_every_command() -> None:
    output = " ".join(run("--help").split())
    assert all(command.purpose in output for command in COMMANDS.values())


@pytest.mark.parametrize("words", STARTS_AT_ONCE)
def test_what_starts_at_once_imports_no_engine_no_checks_and_no_numpy_that_it_can_do_without(words: list[str]) -> None:
    slow = {*ENGINES, "rich", JUDGE} | ({"numpy"} if words not in NEED_ARRAYS else set())
    assert importlib.util.find_spec(JUDGE) is not None
    watch = f"{MAIN}\nimport sys\ntry:\n main({words})\nexcept SystemExit: pass\n"
    python(watch + f"assert not {slow} & set(sys.modules), sorted(sys.modules)")


def test_no_colour_code_is_written_into_a_pipe() -> None:
    output = run("run", "--candidate", "numpy_float64", "--case", "stress/prefill/saturated_cap.float32")
    assert "pass (caches)" in output
    assert "\x1b" not in output
