"""Captures golden v1 here and compares it with the committed set: `python -m tests.gpu.golden --folder DIR`.

A step of `tests.gpu.session`. Each preset is captured as a set of its own, the telling ones first, several at a time,
so that what was reached when the time is over has been compared; the step fails then all the same.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from grok_conformance.harness.commands.diff import toolchains
from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.judging.groups import Group
from grok_conformance.harness.sessions.capture import capture, suite_groups
from grok_conformance.harness.sessions.differences import Move, golden_moves
from tests.gpu.conformance import at_once
from tests.gpu.results import write_figures

FIRST = ("unequal", "realistic", "square", "ties", "stress")
"""The presets that tell most, in this order; then the others."""

PROCESSORS = 2
"""What one capture keeps busy: the model, and then its checks."""

GOOD = ("identical", "within fences")


def main() -> int:
    """Capture and compare; exit status 0 if all cases were captured and lie within their fences."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.golden", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    folder = parser.parse_args().folder / "captured"
    shutil.rmtree(folder, ignore_errors=True)
    old = open_golden(GOLDEN_DIR / "v1")
    found: list[Captured] = []
    parts = by_preset(suite_groups())
    for captured in at_once(lambda part: captured_and_compared(old, folder / part[0], part[1]), parts, PROCESSORS):
        found.append(captured)
        write_figures(folder.parent, figures_of(found, len(old.manifest.cases)))
    good = is_good(found, len(old.manifest.cases))
    print("every case is within its fences" if good else "not every case is within its fences")  # noqa: T201
    return 0 if good else 1


@dataclass(frozen=True)
class Captured:
    """What a part of the set that was captured anew has come to."""

    num_cases: int = 0
    moves: tuple[Move, ...] = ()
    problems: tuple[str, ...] = ()
    programs: str = ""


def captured_and_compared(old: Golden, folder: Path, groups: Sequence[Group]) -> Captured:
    """Capture some groups into a new folder, and compare them with the same cases of the committed set."""
    try:
        capture(folder, groups)
    except FileError as error:  # a check that a port must pass: nothing was written
        return Captured(problems=(str(error),))
    new = open_golden(folder)
    moves, notes = golden_moves(only(old, new), new)
    return Captured(len(new.manifest.cases), tuple(moves), tuple(notes), toolchains(old, new))


def is_good(found: Sequence[Captured], num_cases: int) -> bool:
    """Whether all cases were captured and none moved beyond its fences."""
    whole = sum(part.num_cases for part in found) == num_cases and not any(part.problems for part in found)
    return whole and all(move.reading in GOOD for part in found for move in part.moves)


def by_preset(groups: Sequence[Group]) -> list[tuple[str, list[Group]]]:
    """Return groups by the name of their preset, those that tell most first."""
    names = dict.fromkeys(group.preset.name for group in groups)
    order = [*(name for name in FIRST if name in names), *(name for name in names if name not in FIRST)]
    return [(name, [group for group in groups if group.preset.name == name]) for name in order]


def only(old: Golden, new: Golden) -> Golden:
    """Return a golden set with the cases alone that another one has too."""
    cases = {name: case for name, case in old.manifest.cases.items() if name in new.manifest.cases}
    return replace(old, manifest=replace(old.manifest, cases=cases))


def figures_of(found: Sequence[Captured], num_cases: int) -> dict[str, Any]:
    """Return how many operations moved how far."""
    moves = [move for part in found for move in part.moves]
    readings = [move.reading for move in moves]
    farthest = max(moves, key=lambda move: move.distance, default=None)
    return {
        "cases captured": f"{sum(part.num_cases for part in found)} of {num_cases}",
        "operations, preset by preset": ", ".join(f"{readings.count(each)} {each}" for each in dict.fromkeys(readings)),
        "farthest move / what two honest runs may differ by": f"{farthest.distance:.3g}, {farthest.where}"
        if farthest
        else "none",
        "beyond fences": beyond(moves),
        "problems": "; ".join(problem for part in found for problem in part.problems) or "none",
        "other programs": found[-1].programs,
    }


def beyond(moves: Sequence[Move]) -> str:
    """Return the operations that moved beyond their fences, and where."""
    return ", ".join(f"{m.operation} {m.dtypes} ({m.where})" for m in moves if m.reading not in GOOD) or "none"


if __name__ == "__main__":
    sys.exit(main())
