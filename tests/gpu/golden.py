"""Captures golden v1 here and compares it with the committed set: `python -m tests.gpu.golden --folder DIR`.

A step of `tests.gpu.session`. The cases are captured preset by preset, the telling ones first, each preset a set of its
own, so that what was reached when the time is over has been compared; the step fails then all the same.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from grok_conformance.harness.commands.diff import toolchains
from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.sessions.capture import capture, suite_groups
from grok_conformance.harness.sessions.differences import Move, golden_moves
from tests.gpu.results import write_figures

FIRST = ("unequal", "realistic", "square", "ties", "stress")
"""The presets that tell most, in this order; then the others."""

GOOD = ("identical", "within fences")


def main() -> int:
    """Capture and compare; exit status 0 if all cases were captured and lie within their fences."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.golden", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    folder = parser.parse_args().folder / "captured"
    shutil.rmtree(folder, ignore_errors=True)
    old = open_golden(GOLDEN_DIR / "v1")
    moves: list[Move] = []
    problems: list[str] = []
    num_cases, changed = 0, ""
    for name, groups in by_preset(suite_groups()):
        try:
            capture(folder / name, groups)
        except FileError as error:  # the checks that a port must pass: nothing was written
            problems.append(str(error))
            continue
        new = open_golden(folder / name)
        found, notes = golden_moves(only(old, new), new)
        moves += found
        problems += notes
        num_cases += len(new.manifest.cases)
        changed = toolchains(old, new)
        write_figures(folder.parent, figures_of(moves, problems, f"{num_cases} of {len(old.manifest.cases)}", changed))
    good = num_cases == len(old.manifest.cases) and not problems and all(move.reading in GOOD for move in moves)
    print("every case lies within its fences" if good else f"{len(problems)} problems; {beyond(moves)}")  # noqa: T201
    return 0 if good else 1


def by_preset(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Return groups by the name of their preset, those that tell most first."""
    names = dict.fromkeys(group.preset.name for group in groups)
    order = [*(name for name in FIRST if name in names), *(name for name in names if name not in FIRST)]
    return [(name, [group for group in groups if group.preset.name == name]) for name in order]


def only(old: Golden, new: Golden) -> Golden:
    """Return a golden set with the cases alone that another one has too."""
    cases = {name: case for name, case in old.manifest.cases.items() if name in new.manifest.cases}
    return replace(old, manifest=replace(old.manifest, cases=cases))


def figures_of(moves: Sequence[Move], problems: Sequence[str], cases: str, changed: str) -> dict[str, Any]:
    """Return how many operations moved how far."""
    readings = [move.reading for move in moves]
    farthest = max(moves, key=lambda move: move.distance)
    return {
        "cases captured": cases,
        "operations, preset by preset": ", ".join(f"{readings.count(each)} {each}" for each in dict.fromkeys(readings)),
        "farthest move / what two honest runs may differ by": f"{farthest.distance:.3g}, {farthest.where}",
        "beyond fences": beyond(moves),
        "problems": "; ".join(problems) or "none",
        "other programs": changed,
    }


def beyond(moves: Sequence[Move]) -> str:
    """Return the operations that moved beyond their fences, and where."""
    return ", ".join(f"{m.operation} {m.dtypes} ({m.where})" for m in moves if m.reading not in GOOD) or "none"


if __name__ == "__main__":
    sys.exit(main())
