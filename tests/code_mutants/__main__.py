"""Small faults put into the code that decides, which its tests must see: `python -m tests.code_mutants [MODULE …]`.

Each mutant of a module runs its tests in a forked child. One that they do not fail survives and is listed in SCORES.md;
it counts against the score unless `reasons.json` says why it is equivalent, as no test can tell it from the original.
A score belongs to the code of one function: only functions whose code has changed since are scored again.
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

from tests.code_mutants.mutations import Mutant, digests, mutants, num_mutants

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parent.parent
TARGETS = (
    "measure.comparison",
    "measure.consecutive",
    "measure.blocks",
    "measure.scan",
    "measure.systematic",
    "measure.noise",
    "checks.batches",
    "checks.flips",
    "checks.local",
    "checks.pooling",
    "checks.search",
    "checks.ways",
    "judging.verdict",
)
LIMIT_SECONDS = 60

Scores = dict[str, dict[str, Any]]  # module, function: digest, num_mutants, survivors

HEAD = (
    "# Mutation testing of the code that decides", "",
    "Written by `nox -s mutants`. The score is the share of killed mutants among those that are not equivalent.", "",
    "Mutants of functions whose code has changed since are not scored yet, and counted apart.", "",
    "| module | mutants | killed | equivalent | score | not scored yet |",
    "|---|---:|---:|---:|---:|---:|",
)  # fmt: skip
BODY = ("", "## Survivors", "", "| module, function | was | is | why no test can see it |", "|---|---|---|---|")


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
            plugins = ("-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist")
            options = ("-x", "-q", "--assert=plain", "--no-header", *plugins)
            os._exit(int(pytest.main([*options, *tests]) != pytest.ExitCode.OK))
        os._exit(1)
    _, status = os.waitpid(child, 0)
    return status == 0


def changed(target: str, scores: Scores) -> set[str]:
    """Return the parts of a module that have no score, or one of other code."""
    scored = scores.get(target, {})
    return {part for part, digest in digests(source(target)).items() if scored.get(part, {}).get("digest") != digest}


def source(target: str) -> str:
    """Return the code of a module as it is now."""
    return path_of(target).read_text()


def path_of(target: str) -> Path:
    """Return the file of a module, named by its dotted path below `harness`."""
    return ROOT.joinpath("harness", *target.split(".")).with_suffix(".py")


def tests_of(target: str) -> list[str]:
    """Return the test files of a module: those at its own path."""
    path = path_of(target).relative_to(ROOT)
    return [str(each) for each in sorted((ROOT / "tests" / path.parent).glob(f"test_{path.stem}*.py"))]


def score(target: str, scored: dict[str, Any], wanted: set[str]) -> dict[str, Any]:
    """Return the scores of a module's parts, those that are not wanted as they were."""
    name, path, tests = f"grok_conformance.harness.{target}", path_of(target), tests_of(target)
    if not survives(name, path, None, tests):
        sys.exit(f"{target}: its tests fail without a mutant")
    code = path.read_text()
    found, began = list(mutants(code, wanted)), time.monotonic()
    survivors: dict[str, list[dict[str, str]]] = {part: [] for part in wanted}
    for i, mutant in enumerate(found, start=1):
        if survives(name, path, mutant, tests):
            survivor = {"code": mutant.code, "before": mutant.before, "after": mutant.after}
            survivors[mutant.part].append(survivor)
        left = (time.monotonic() - began) / i * (len(found) - i)
        total = sum(map(len, survivors.values()))
        sys.stderr.write(f"\r{target}: {i} of {len(found)}, {total} survive, {left:.0f} s left ")
    sys.stderr.write("\n")
    counts = num_mutants(code)
    return {
        part: {"digest": digest, "num_mutants": counts[part], "survivors": survivors[part]}
        if part in wanted
        else scored[part]
        for part, digest in digests(code).items()
    }


def write(scores: Scores) -> None:
    """Write SCORES.md and scores.json."""
    reasons = json.loads((FOLDER / "reasons.json").read_text())
    summary, survivors, used = [], [], set()
    for target in TARGETS:
        stale_parts, counts = changed(target, scores), num_mutants(source(target))
        parts = {part: scores[target][part] for part in counts if part not in stale_parts}
        rows = [(part, each) for part, row in parts.items() for each in row["survivors"]]
        keys = [f"{target} | {part} | {each['code']} | {each['before']} -> {each['after']}" for part, each in rows]
        for key, (part, each) in zip(keys, rows, strict=True):
            before, after = (each[name].replace("|", "\\|").replace("\n", " ") for name in ("before", "after"))
            survivors.append(f"| {target}, {part} | `{before}` | `{after}` | {reasons.get(key, '–')} |")
        used |= set(keys)
        total, num_equivalent = sum(row["num_mutants"] for row in parts.values()), sum(key in reasons for key in keys)
        share = f"{(total - len(rows)) / (total - num_equivalent):.1%}" if total else "–"
        cells = (total, total - len(rows), num_equivalent, share, sum(counts[part] for part in stale_parts))
        summary.append(f"| {path_of(target).relative_to(ROOT)} | {' | '.join(map(str, cells))} |")
    if stale := [key for key in reasons if key.split(" | ")[0] in scores and key not in used]:
        sys.stderr.write(f"reasons.json: {stale[0]!r} survives no longer; {len(stale)} such in all, remove them\n")
    lines = (*HEAD, *summary, *BODY, *survivors)
    (FOLDER / "SCORES.md").write_text("\n".join(lines) + "\n")
    (FOLDER / "scores.json").write_text(json.dumps(scores, indent=1) + "\n")


def main(targets: Sequence[str]) -> None:
    """Score what has changed since it was scored last; `--all` scores everything."""
    hypothesis.settings.register_profile("mutants", derandomize=True, database=None)
    scores: Scores = json.loads((FOLDER / "scores.json").read_text())
    everything = "--all" in targets
    for target in [each for each in targets if each != "--all"] or TARGETS:
        if wanted := set(digests(source(target))) if everything else changed(target, scores):
            scores[target] = score(target, scores.get(target, {}), wanted)
        scores = {each: scores.get(each, {}) for each in TARGETS}
        write(scores)


if __name__ == "__main__":
    main(sys.argv[1:])
