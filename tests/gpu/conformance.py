"""Judges one candidate: `python -m tests.gpu.conformance NAME GLOB --folder DIR`, a step of `tests.gpu.session`.

Both compute dtypes are judged apart, and at the same time where there are processors for it: an engine that compiles
does so on few of them. Their reports stay in the folder, `float32.json` and `bfloat16.json`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from grok_conformance.harness.report.files import read_report
from grok_conformance.harness.sessions.differences import measured
from tests.gpu.results import write_figures

T = TypeVar("T")
R = TypeVar("R")

SEED = "1"
"""What is drawn is the same in every session, so that two machines can be compared."""

DTYPES = ("bfloat16", "float32")

PROCESSORS = 4
"""What each of several runs at the same time keeps busy: two candidates, and judges."""


def main() -> int:
    """Judge a candidate over the cases that match; exit status 0 if it conforms."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.conformance", description=__doc__)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("cases", metavar="GLOB")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    statuses = []
    judged = at_once(lambda dtype: judge(options.name, options.folder / f"{dtype}.json", options.cases, dtype), DTYPES)
    for dtype, (status, candidate) in zip(DTYPES, judged, strict=True):
        statuses.append(status)
        figures |= {f"{dtype}, {name}": figure for name, figure in figures_of(candidate).items()}
    write_figures(options.folder, figures)
    return 0 if not any(statuses) else 1


def at_once(action: Callable[[T], R], given: Iterable[T], processors: int = PROCESSORS) -> Iterator[R]:
    """Yield what an action gives for each, in order; several at a time where there are so many processors for each."""
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // processors)) as pool:
        yield from pool.map(action, given)


def judge(name: str, report: Path, cases: str, dtype: str) -> tuple[int, Mapping[str, Any]]:
    """Judge a candidate in one compute dtype; return the exit status and its row of the report, if there is one."""
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "grok_conformance", "run", "--candidate", name, "--case", cases, "--dtype", dtype]
    words = ["--seed", SEED, "--quiet", "--json", str(report)]
    status = subprocess.run([*command, *words], check=False).returncode  # noqa: S603 - this repository's own command
    return status, read_report(report)["candidates"][0] if report.is_file() else {}


def figures_of(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a judged candidate: its verdict, its cases, and how near it came to its fences."""
    if not candidate:
        return {"verdict": "none: see output.txt"}
    operations = candidate["operations"]
    worst = max(operations, key=measured, default=None)
    nearest = f"{measured(worst):.3g}, {worst['operation']}" if worst else "none"
    return {
        "verdict": f"{candidate['name']} {candidate['version']}: {candidate['summary']}",
        "cases": f"{sum(case['status'] == 'pass' for case in candidate['cases'])} of {len(candidate['cases'])}",
        "largest measured / allowed": nearest,
        "operations that fail": ", ".join(failing(operations)) or "none",
        "bitwise repeatable": all(case["repeatable"] for case in candidate["cases"]),
    }


def failing(operations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the operations that fail."""
    return [row["operation"] for row in operations if row["status"] == "fail"]


if __name__ == "__main__":
    sys.exit(main())
