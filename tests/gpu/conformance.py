"""Judges one candidate: `python -m tests.gpu.conformance NAME GLOB --folder DIR`, a step of `tests.gpu.session`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from grok_conformance.harness.__main__ import main as harness
from grok_conformance.harness.report.files import read_report
from grok_conformance.harness.sessions.differences import measured
from tests.gpu.results import write_figures

SEED = "1"
"""What is drawn is the same in every session, so that two machines can be compared."""


def main() -> int:
    """Judge a candidate over the cases that match; exit status 0 if it conforms."""
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.conformance", description=__doc__)
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("cases", metavar="GLOB")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    status, candidate = judge(options.name, options.folder, ("--case", options.cases, "--quiet"))
    write_figures(options.folder, figures_of(candidate) if candidate else {})
    return status


def judge(name: str, folder: Path, more: Sequence[str]) -> tuple[int, Mapping[str, Any]]:
    """Judge a candidate; return the exit status and its row of the report, which stays in the folder."""
    path = folder / "report.json"
    path.unlink(missing_ok=True)
    status = harness(["run", "--candidate", name, "--seed", SEED, "--json", str(path), *more])
    return status, read_report(path)["candidates"][0] if path.is_file() else {}


def figures_of(candidate: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of a judged candidate: its verdict, its cases, and how near it came to its fences."""
    operations = candidate["operations"]
    worst = max(operations, key=measured, default=None)
    return {
        "verdict": f"{candidate['name']} {candidate['version']}: {candidate['summary']}",
        "cases": f"{sum(case['status'] == 'pass' for case in candidate['cases'])} of {len(candidate['cases'])}",
        "largest measured / allowed": f"{measured(worst):.3g}, {worst['operation']} in {worst['fprop_dtype']}"
        if worst
        else "none",
        "operations that fail": ", ".join(failing(operations)) or "none",
        "bitwise repeatable": all(case["repeatable"] for case in candidate["cases"]),
    }


def failing(operations: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the operations that fail, each with its compute dtype."""
    return [f"{row['operation']} in {row['fprop_dtype']}" for row in operations if row["status"] == "fail"]


if __name__ == "__main__":
    sys.exit(main())
