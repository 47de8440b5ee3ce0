"""What became of the steps: as JSON, as a table to read, as an exit status."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from tests.gpu.child import Ended
from tests.gpu.steps import NOT_SHOWN

Status = Literal["passed", "failed", "not shown", "left out"]

MAX_NOTE = 200


@dataclass(frozen=True)
class Result:
    """What became of one step: how long it took of how long it might, its figures, and a note on what went wrong."""

    name: str
    shows: str
    status: Status
    seconds: float = 0.0
    allowed: float = 0.0
    figures: Mapping[str, Any] = field(default_factory=dict)
    note: str = ""
    exit_code: int | None = None


def status_of(ended: Ended, seconds: float, output: Path) -> tuple[Status, str]:
    """Return what the end of a step means, and for a failure the last line that it printed."""
    if ended.exit_code == 0:
        return "passed", ""
    last = last_line(output)
    if ended.exit_code is None:
        return "failed", f"ended after {seconds:.0f} s, its time; last: {last}"
    return "not shown" if ended.exit_code == NOT_SHOWN else "failed", last


def last_line(output: Path) -> str:
    """Return the last line of a step's output that is not empty, cut to a length."""
    lines = output.read_text(errors="replace").splitlines() if output.is_file() else []
    last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
    return last if len(last) <= MAX_NOTE else f"{last[: MAX_NOTE - 1]}…"


def read_figures(path: Path) -> dict[str, Any]:
    """Return what a step measured; nothing where it did not get so far."""
    try:
        figures: dict[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return figures


def exit_status(results: Sequence[Result], *, cpu: bool) -> int:
    """Return 0 if all steps passed, 1 otherwise; in a dry run some need not be shown."""
    good = {"passed", "not shown"} if cpu else {"passed"}
    return 0 if results and all(result.status in good for result in results) else 1


def verdict_line(results: Sequence[Result], *, cpu: bool) -> str:
    """Return how many steps came to what, and what a dry run does not show."""
    statuses = [result.status for result in results]
    counts = ", ".join(f"{statuses.count(status)} {status}" for status in dict.fromkeys(statuses))
    return f"{counts}; a dry run on the CPU, which shows nothing of a GPU" if cpu else counts


def write_results(out: Path, results: Sequence[Result], *, cpu: bool) -> None:
    """Write results.json and results.md; each is whole at any time."""
    machine = next((result.figures for result in results if result.name == "machine"), {})
    report = {"dry_run": cpu, "verdict": verdict_line(results, cpu=cpu), "steps": [asdict(each) for each in results]}
    for name, text in (
        ("results.json", json.dumps(report, indent=1, ensure_ascii=False) + "\n"),
        ("results.md", page(results, machine, cpu=cpu)),
    ):
        part = out / f".{name}.partial"
        part.write_text(text)
        os.replace(part, out / name)  # noqa: PTH105 - what it does, by its name


def page(results: Sequence[Result], machine: Mapping[str, Any], *, cpu: bool) -> str:
    """Return the results as a page of Markdown: the machine, a row per step, then each step's figures."""
    where = "the CPU, as a dry run: nothing here was shown on a GPU" if cpu else str(machine.get("gpu", "no GPU"))
    lines = [f"# GPU session on {where}", "", f"{verdict_line(results, cpu=cpu)}.", ""]
    lines += ["| step | must show | status | seconds | of | note |", "| --- | --- | --- | --- | --- | --- |"]
    lines += [
        f"| {r.name} | {r.shows} | {r.status} | {r.seconds:.1f} | {r.allowed:.0f} | {cell(r.note)} |" for r in results
    ]
    for result in results:
        tables = [value for value in result.figures.values() if is_table(value)]
        plain = [f"* {name}: {value}" for name, value in result.figures.items() if not is_table(value)]
        if result.figures:
            lines += ["", f"## {result.name}", "", *plain, *(line for table in tables for line in ("", table))]
    return "\n".join(lines) + "\n"


def is_table(value: object) -> bool:
    """Whether a figure is a table of Markdown already."""
    return isinstance(value, str) and value.startswith("|")


def cell(text: str) -> str:
    """Return text that does not end a cell of a table."""
    return text.replace("|", "\\|")


def write_figures(folder: Path, figures: Mapping[str, Any]) -> None:
    """Write what a step measured, for the session to collect, and print it."""
    (folder / "figures.json").write_text(json.dumps(figures, ensure_ascii=False))
    for name, value in figures.items():
        print(f"{name}: {value}", flush=True)  # noqa: T201
