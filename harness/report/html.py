"""The run as a page: one file that needs no network, made from the JSON report alone."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from grok_conformance.harness.contract import split_tap
from grok_conformance.harness.diagnosis.power import Power, describe
from grok_conformance.harness.formats.files import whole_file
from grok_conformance.harness.judging.regression import Regression
from grok_conformance.harness.judging.regression import describe as since
from grok_conformance.harness.judging.verdict import MEANINGS, PASSING, SEVERITY
from grok_conformance.harness.report.agreement import Growth
from grok_conformance.harness.report.case_rows import counted
from grok_conformance.harness.report.charts import BIN_LABELS, STYLES, WITHIN, Line, by_category, key, line_chart
from grok_conformance.harness.report.figures import LEGEND
from grok_conformance.harness.report.files import Report
from grok_conformance.harness.report.reproduction import reproduce
from grok_conformance.harness.report.view import SHADES, CandidateView, Cell, candidate_view

TEXTS = {path.name: path.read_text() for path in (Path(__file__).parent / "page").iterdir()}
"""What a page is made of, read before any candidate runs: it could change the files."""

HEADS = ("index", "observed", "exact", "expected", "error", "fence", "times")


def write_html(path: Path, report: Report) -> None:
    """Write the page of a JSON report, whole or not at all."""
    page = render(report)
    with whole_file(path) as file:
        file.write(page.encode())


def render(report: Report) -> str:
    """Return the page of a JSON report; what is worst comes first."""
    rows = sorted(report["candidates"], key=lambda row: -SEVERITY[row["status"]])
    views = [candidate_view(row) for row in rows]
    environment = jinja2.Environment(
        loader=jinja2.DictLoader(TEXTS),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.jinja").render(
        headline=headline(views),
        views=views,
        suite=report["suite"],
        date=datetime.fromisoformat(report["date"]).strftime("%Y-%m-%d %H:%M UTC"),
        golden=report["golden"],
        provenance=report["provenance"],
        command=report["provenance"].get("command", ""),
        counted=counted,
        legend=legend(),
        usual=LEGEND,
        meaning=f"{MEANINGS['pass']}.",
        powers=powers(rows),
        growth_chart=growth_chart,
        position_chart=position_chart,
        trend_chart=trend_chart,
        since_baseline=since_baseline,
        styles=STYLES,
        key=key,
        data=embedded({"labels": BIN_LABELS, "within": WITHIN, "heads": HEADS, "candidates": list(map(cells, views))}),
    )


def headline(views: Sequence[CandidateView]) -> str:
    """Return the verdict on the run in half a sentence."""
    failed = [view.name for view in views if view.status not in PASSING]
    if not failed:
        return f"{len(views)} of {len(views)} candidates pass" if views[1:] else "1 of 1 candidate passes"
    return f"{', '.join(failed)} {'does' if len(failed) == 1 else 'do'} not conform"


def powers(rows: Sequence[Report]) -> dict[str, list[str]]:
    """Return what the run could see, by statement, with the candidates of which it is true."""
    names: dict[str, list[str]] = {}
    for row in rows:
        for power in row["powers"]:
            names.setdefault(f"{row['level']} in {describe(Power(**power))}", []).append(row["name"])
    return names


def legend() -> list[str]:
    """Return what the colours of the map mean, lightest first."""
    edges = [f"{edge:g}" for edge in SHADES]
    beyond = [f"{low} to {high}" for low, high in itertools.pairwise(edges[2:])]
    return [*(f"up to {edge}" for edge in edges[:3]), *beyond, f"beyond {edges[-1]}"]


def cells(view: CandidateView) -> dict[str, Any]:
    """Return what the page's script shows of a candidate: every cell of the map, in the order of `positions`.

    What the commands of all cells begin with stands there once: they are most of a page.
    """
    found = [cell_data(view.name, cell) for cell in view.cells.values()]
    command = os.path.commonprefix([cell["reproduce"] for cell in found])  # noqa: RUF071 - of letters, no paths
    found = [{**cell, "reproduce": cell["reproduce"].removeprefix(command)} for cell in found]
    return {"name": view.name, "command": command, "cells": found}


def cell_data(candidate: str, cell: Cell) -> dict[str, Any]:
    """Return one cell as the script reads it."""
    return {
        "operation": cell.operation,
        "layer": cell.layer,
        "dtype": cell.dtype,
        "status": cell.status,
        "shown": cell.shown,
        "problem": cell.problem,
        "diagnosis": cell.diagnosis,
        "plan": cell.plan,
        "changes": list(cell.changes),
        "case": cell.case,
        "call": cell.call,
        "reproduce": reproduce(candidate, cell.case, cell.operation),
        "tap": cell.tap,
        "elements": cell.num_elements,
        "histogram": cell.histogram,
        "tokens": [list(vars(token).values()) for token in cell.tokens],
    }


def embedded(value: Any) -> Markup:
    """Return JSON that may stand inside a script element, whatever its strings hold."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Markup(text.replace("<", "\\u003c"))  # noqa: S704 - nothing in it can end the element


def growth_chart(growth: Growth) -> Markup:
    """Return the end-to-end error along the residual stream, beside honest rounding and the golden run."""
    places = [split_tap(tap) for tap in growth.taps]
    labels = [name[:3] if layer is None else f"{layer} {name[:3]}" for layer, name in places]
    lines = (
        Line("candidate", growth.observed, STYLES[0]),
        Line("honest rounding", growth.honest, STYLES[1]),
        Line("golden", growth.expected, STYLES[2]),
    )
    return line_chart(labels, lines, f"error along the residual stream, {growth.dtype}", across="layer and tap")


def position_chart(dtype: str, kinds: Mapping[str, Mapping[str, float]]) -> Markup:
    """Return the KL divergence of the logits by position, one line per kind of call."""
    labels = sorted({position for positions in kinds.values() for position in positions}, key=int)
    lines = [
        Line(kind, by_category(positions, labels), style)
        for (kind, positions), style in zip(kinds.items(), STYLES, strict=False)
    ]
    return line_chart(labels, lines, f"KL divergence by position, {dtype}", across="position")


def since_baseline(regression: Regression) -> list[str]:
    """Return what changed since the baseline, line by line."""
    return list(since(regression))


def trend_chart(regression: Regression) -> Markup:
    """Return the time and memory of every run in the history, oldest first."""
    runs = regression.history
    lines = (
        Line("seconds", [run["seconds"] for run in runs], STYLES[0]),
        Line("GiB", [run["peak_bytes"] / 2**30 for run in runs], STYLES[1]),
    )
    return line_chart([str(i + 1) for i in range(len(runs))], lines, "time and memory of every run", across="run")
