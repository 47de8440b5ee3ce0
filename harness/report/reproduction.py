"""The command that shows a failure again, as it is typed where the run was started."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from grok_conformance.harness.cases.drawn import drawn_as, stored_id
from grok_conformance.harness.cases.ladder import is_rung


def reproduce(
    candidate: str,
    case: str,
    operation: str = "",
    *,
    words: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Return the command that judges one candidate in one case, or the cases of a glob, at one operation or whole.

    `words` are those that started this process, `environment` its variables: a nox session, pytest, `judge` on folders,
    the installed program, `python -m` and Python itself are each told in their own terms.
    """
    drawn = drawn_as(case)
    seed = [] if drawn is None else ["--seed", str(drawn[1]), *["--ladder"] * is_rung(case)]
    words = sys.argv if words is None else words
    environment = os.environ if environment is None else environment
    program, rest = Path(words[0]).name if words else "", words[1:]
    if program in ("pytest", "py.test") or (program == "__main__.py" and Path(words[0]).parent.name == "pytest"):
        return (
            f"pytest --conformance-candidate {shlex.quote(candidate)} --conformance-case {shlex.quote(stored_id(case))}"
        )
    is_command = program == "grok-conformance" or Path(words[0] if words else "").parent.name == "grok_conformance"
    start = "grok-conformance" if program == "grok-conformance" else "python -m grok_conformance"
    if is_command and rest[:1] == ["judge"]:
        return f"{start} {shlex.join(rest)}"
    narrowed = ["--candidate", candidate, "--case", stored_id(case), *seed]
    narrowed += ["--operation", operation] if operation else []
    if is_command and environment.get("NOX_CURRENT_SESSION", "").startswith("conformance"):
        return f"nox -s conformance -- {shlex.join(narrowed)}"
    if is_command:
        return f"{start} run {shlex.join(narrowed)}"
    if drawn is not None:  # drawn cases are run by the command line alone
        return f"{start} run {shlex.join(narrowed)}"
    asked = f", operations={operation!r}" if operation else ""
    return f"grok_conformance.judge({candidate!r}, {case!r}{asked})"
