"""The command that shows a failure again, as it is typed where the run was started."""

from __future__ import annotations

import itertools
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from grok_conformance.harness.cases.drawn import drawn_as, stored_id
from grok_conformance.harness.cases.ladder import is_rung
from grok_conformance.harness.running import SERVED

PYTEST, PROGRAM, MODULE = "pytest", "grok-conformance", "python -m grok_conformance"
NOX = "nox -s conformance --"

ENDPOINT = ("--endpoint", "--model", "--top-logprobs")
"""The options of `run` that say which server is judged."""

KEPT = ("--layer", "--golden")
"""The options of `run` without which a failure would be looked for in other layers, or by another golden set."""


def started_by(words: Sequence[str]) -> str:
    """Return the program that the words of a process began with, as it is typed; empty in Python itself."""
    path = Path(words[0]) if words else Path()
    if path.name in (PYTEST, "py.test") or path.parts[-2:] == ("pytest", "__main__.py"):
        return PYTEST
    if path.name == PROGRAM:
        return PROGRAM
    return MODULE if path.parent.name == "grok_conformance" else ""


def in_nox(environment: Mapping[str, str]) -> bool:
    """Return whether the session that judges candidates runs this process."""
    return environment.get("NOX_CURRENT_SESSION", "").startswith("conformance")


def command_typed(words: Sequence[str], environment: Mapping[str, str]) -> str:
    """Return the command that started this process, as it was typed; empty in Python itself."""
    start = started_by(words)
    if start == MODULE and in_nox(environment) and list(words[1:2]) == ["run"]:
        return f"{NOX} {shlex.join(words[2:])}".strip()
    return start and f"{start} {shlex.join(words[1:])}"


def called(candidate: str, words: Sequence[str]) -> list[str]:
    """Return the options by which a run names a candidate: those of the endpoint where a server goes by that name."""
    given = {name: value for name in ENDPOINT for value in values_of(words, name)}
    if "--endpoint" not in given or candidate != given.get("--model", SERVED):
        return ["--candidate", candidate]
    return [word for option in given.items() for word in option]


def values_of(words: Sequence[str], option: str) -> list[str]:
    """Return the values that the words of a command give to an option, in their order."""
    pairs = itertools.pairwise([*words, ""])
    return [
        value if word == option else word.removeprefix(f"{option}=")
        for word, value in pairs
        if word == option or word.startswith(f"{option}=")
    ]


def without_option(words: Sequence[str], option: str) -> list[str]:
    """Return the words of a command without an option and its values."""
    return [
        word
        for other, word in itertools.pairwise(["", *words])
        if option not in (word, other) and not word.startswith(f"{option}=")
    ]


def reproduce(
    candidate: str,
    case: str,
    operation: str = "",
    *,
    seed: int | None = None,
    words: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the command that judges one candidate in one case, or the cases of a glob, at one operation or whole.

    `seed` is that of the run where what it drew matters, a drawn case brings its own. `words` are those that started
    this process, `environment` its variables: a nox session, pytest, `judge` on folders, the installed program,
    `python -m` and Python itself are each told in their own terms. Layers and the golden set stay as they were given.
    """
    drawn = drawn_as(case)
    seed = seed if drawn is None else drawn[1]
    drawing = [] if seed is None else ["--seed", str(seed), *["--ladder"] * is_rung(case)]
    words = sys.argv if words is None else words
    environment = os.environ if environment is None else environment
    start, rest = started_by(words), words[1:]
    if start == PYTEST:
        narrowed = ["--conformance-candidate", candidate, "--conformance-case", case]  # of a drawn one with its seed
        narrowed += ["--conformance-seed", str(seed)] if drawn is None and seed is not None else []
        return f"{PYTEST} {shlex.join(narrowed)}"
    if start and rest[:1] == ["judge"]:
        return f"{start} {shlex.join([*without_option(rest, '--case'), '--case', case])}"
    narrowed = [*called(candidate, rest), "--case", stored_id(case), *drawing]
    narrowed += ["--operation", operation] if operation else []
    narrowed += [word for name in KEPT for value in values_of(rest, name) for word in (name, value)]
    if start and in_nox(environment):
        return f"{NOX} {shlex.join(narrowed)}"
    if start or seed is not None:  # drawn cases are run by the command line alone
        return f"{start or MODULE} run {shlex.join(narrowed)}"
    asked = f", operations={operation!r}" if operation else ""
    return f"grok_conformance.judge({candidate!r}, {case!r}{asked})"
