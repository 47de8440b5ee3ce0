"""Mutation testing of the code that decides: `python -m tests.code_mutants [MODULE …]`.

Each mutant of a module runs its tests in a forked child. One that they do not fail survives and is listed in SCORES.md;
it counts against the score unless `reasons.json` says why it is equivalent, as no test can tell it from the original.
"""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import fastjsonschema  # noqa: F401 - loaded once, before the forks, like the next ones
import hypothesis
import hypothesis.extra.numpy
import ml_dtypes  # noqa: F401
import numpy as np  # noqa: F401
import pytest

from tests.code_mutants.mutations import Mutant, mutants

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
TARGETS = ("compare", "blocks", "statistics", "verdict", "noise", "routing", "choice")
LIMIT_SECONDS = 60

HEAD = (
    "# Mutation testing of the code that decides", "",
    "Written by `nox -s mutants`. The score is the share of killed mutants among those that are not equivalent.", "",
    "| module | mutants | killed | equivalent | score |",
    "|---|---:|---:|---:|---:|",
)  # fmt: skip
BODY = ("", "## Survivors", "", "| module, line | was | is | why no test can see it |", "|---|---|---|---|")


class Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Loads one module from a syntax tree."""

    def __init__(self, name: str, path: Path, mutant: Mutant) -> None:
        self.name, self.path, self.mutant = name, path, mutant

    def find_spec(self, name: str, _path: Any = None, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != self.name:
            return None
        return importlib.machinery.ModuleSpec(name, self, origin=str(self.path))

    def exec_module(self, module: ModuleType) -> None:
        module.__file__ = str(self.path)
        exec(compile(self.mutant.tree, str(self.path), "exec"), vars(module))  # noqa: S102 - the mutant is to be run


def survives(name: str, path: Path, mutant: Mutant | None, tests: Sequence[str]) -> bool:
    """Run the tests on a mutant in a child; whether they pass. A mutant that takes too long does not survive."""
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException):
            signal.alarm(LIMIT_SECONDS)
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(null, 2)
            if mutant is not None:
                sys.meta_path.insert(0, Loader(name, path, mutant))
            options = [
                "-x",
                "-q",
                "--assert=plain",
                "-p",
                "no:cacheprovider",
                "-p",
                "no:randomly",
                "-p",
                "no:xdist",
                "--no-header",
            ]
            os._exit(int(pytest.main([*options, *tests]) != pytest.ExitCode.OK))
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return status == 0


def score(target: str) -> dict[str, Any]:
    """Return the score of a module and its survivors."""
    path = ROOT / "harness" / f"{target}.py"
    tests = [str(path) for path in sorted((ROOT / "tests" / "harness").glob(f"test_{target}*.py"))]
    if not survives(f"harness.{target}", path, None, tests):
        sys.exit(f"{target}: its tests fail without a mutant")
    found, survivors, began = list(mutants(path.read_text())), [], time.monotonic()
    for i, mutant in enumerate(found, start=1):
        if survives(f"harness.{target}", path, mutant, tests):
            survivors.append({"line": mutant.line, "code": mutant.code, "before": mutant.before, "after": mutant.after})
        left = (time.monotonic() - began) / i * (len(found) - i)
        sys.stderr.write(f"\r{target}: {i} of {len(found)}, {len(survivors)} survive, {left:.0f} s left ")
    sys.stderr.write("\n")
    return {"num_mutants": len(found), "killed": len(found) - len(survivors), "survivors": survivors}


def write(scores: dict[str, Any]) -> None:
    """Write SCORES.md and scores.json."""
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    summary, survivors, used = [], [], set()
    for target, row in scores.items():
        num_equivalent = 0
        for each in row["survivors"]:
            key = f"{target} | {each['code']} | {each['before']} -> {each['after']}"
            before, after = (each[name].replace("|", "\\|").replace("\n", " ") for name in ("before", "after"))
            survivors.append(f"| {target}, {each['line']} | `{before}` | `{after}` | {reasons.get(key, '–')} |")
            num_equivalent += key in reasons
            used.add(key)
        share = row["killed"] / (row["num_mutants"] - num_equivalent)
        cells = (row["num_mutants"], row["killed"], num_equivalent, f"{share:.1%}")
        summary.append(f"| harness/{target}.py | {' | '.join(map(str, cells))} |")
    if stale := [key for key in reasons if key.split(" | ")[0] in scores and key not in used]:
        sys.stderr.write(f"reasons.json: {stale[0]!r} survives no longer; {len(stale)} such in all, remove them\n")
    lines = (*HEAD, *summary, *BODY, *survivors)
    (FOLDER / "SCORES.md").write_text("\n".join(lines) + "\n")
    (FOLDER / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


def main(targets: Sequence[str]) -> None:
    """Score some modules; the others keep their scores."""
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None)
    path = FOLDER / "scores.json"
    scores = json.loads(path.read_text()) if path.exists() else {}
    for target in targets:
        scores[target] = score(target)
        write(scores)


if __name__ == "__main__":
    main(sys.argv[1:] or TARGETS)
