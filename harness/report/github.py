"""The run for GitHub Actions: a summary of the step in markdown, and an annotation per failing operation."""

from __future__ import annotations

import contextlib
import html
import re
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from grok_conformance.harness.judging.verdict import PASSING, CandidateVerdict
from grok_conformance.harness.report.explanation import explain, failing_operations, format_ratio, likely

MAX_ANNOTATIONS = 10
"""GitHub shows ten annotations of a kind per step."""


def report_to_github(verdicts: Sequence[CandidateVerdict], environment: Mapping[str, str]) -> Iterator[str]:
    """Append the summary where GITHUB_STEP_SUMMARY says, and yield the annotations if GITHUB_ACTIONS is set."""
    if path := environment.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:  # the other steps of the job write there too
            file.write(summary(verdicts))
    if environment.get("GITHUB_ACTIONS"):
        yield from error_commands(verdicts)


def summary(verdicts: Sequence[CandidateVerdict]) -> str:
    """Return the run in markdown: one line per candidate, and every failing operation explained."""
    lines = [
        "## Grok-1 conformance",
        "",
        "| candidate | verdict | cases | likely fault | at |",
        "|---|---|---|---|---|",
    ]
    for verdict in verdicts:
        failing = failing_operations(verdict)
        faults = ", ".join(dict.fromkeys(filter(None, map(likely, failing.values()))))
        passed = sum(case.status in PASSING for case in verdict.cases)
        cells = (verdict.name, verdict.summary, f"{passed} of {len(verdict.cases)}", faults, ", ".join(failing))
        lines.append("| " + " | ".join(in_a_cell(cell) for cell in cells) + " |")
    for verdict in verdicts:
        for operation, rows in failing_operations(verdict).items():
            worst = max((row.worst for row in rows), key=lambda each: each.ratio)
            head = f"{verdict.name}: {operation}, {format_ratio(worst)}"
            text = explain(verdict, rows)
            fence = "`" * (2 + max(map(len, re.findall("`+", text)), default=1))
            lines += [
                "",
                f"<details><summary>{html.escape(head)}</summary>",
                "",
                f"{fence}text",
                text,
                fence,
                "</details>",
            ]
    return "\n".join(lines) + "\n"


def in_a_cell(text: str) -> str:
    """Return a text as a cell of a markdown table shows it: on one line, none of it markup."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return html.escape(line, quote=False).replace("|", "\\|").replace("`", "&#96;")


@contextlib.contextmanager
def commands_off(environment: Mapping[str, str]) -> Iterator[None]:
    """Let GitHub take nothing that is written meanwhile for a command: a port's words reach the log too."""
    if not environment.get("GITHUB_ACTIONS"):
        yield
        return
    token = secrets.token_hex(16)
    sys.stdout.write(f"::stop-commands::{token}\n")
    try:
        yield
    finally:
        sys.stdout.write(f"\n::{token}::\n")


def error_commands(verdicts: Sequence[CandidateVerdict]) -> Iterator[str]:
    """Yield one `::error` per failing operation, or per candidate that failed without one."""
    found = [
        (verdict, operation, rows) for verdict in verdicts for operation, rows in failing_operations(verdict).items()
    ]
    for verdict, operation, rows in found[:MAX_ANNOTATIONS]:
        title = escaped(f"{verdict.name}: {operation}", "property")
        yield f"::error {place_of(verdict)}title={title}::{escaped(explain(verdict, rows))}"
    for verdict in verdicts:
        if not verdict.passed and not failing_operations(verdict):
            reasons = (case.reason for case in verdict.cases if case.status not in PASSING and not case.waived)
            reason = next(iter((*verdict.outdated, *reasons)), "shows no logits")
            title = escaped(verdict.name, "property")
            yield f"::error {place_of(verdict, reason)}title={title}::{escaped(f'{verdict.status}: {reason}')}"


def place_of(verdict: CandidateVerdict, reason: str = "") -> str:
    """Return the file of an adapter as a property of an annotation, with the line at which it failed or the first."""
    path = Path(verdict.name)
    if not path.is_file():
        return ""
    found = re.search(rf"{re.escape(path.name)}:(\d+)", reason)
    return f"file={escaped(verdict.name, 'property')},line={found[1] if found else 1},"


def escaped(text: str, kind: str = "message") -> str:
    """Return a text as a workflow command takes it."""
    text = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
    return text.replace(":", "%3A").replace(",", "%2C") if kind == "property" else text
