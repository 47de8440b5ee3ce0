"""Charts as inline SVG, in the page’s own colours, each with its figures as text for who cannot see it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from grok_conformance.harness.measure.histogram import EDGES

WIDTH, HEIGHT = 420, 200
LEFT, RIGHT, TOP, BOTTOM = 46, 10, 10, 40
MAX_LABELS = 12
"""Labels along an axis of categories; more would overlap on a phone."""

BIN_LABELS = ("0", *(f"≤{edge:g}" if edge >= 1 else f"≤1/{1 / edge:g}" for edge in EDGES[1:]), f">{EDGES[-1]:g}")
WITHIN = EDGES.index(1.0) + 1
"""Bins of errors that lie within their fence."""


STYLES = ("first", "second", "third")
"""The classes of the lines of a chart, told apart by colour and by dashes."""


@dataclass(frozen=True)
class Line:
    """A line of a chart: y by index of the category, NaN where there is none; `style` is its CSS class."""

    name: str
    values: Sequence[float]
    style: str


def line_chart(labels: Sequence[str], lines: Sequence[Line], caption: str, *, across: str) -> Markup:
    """Return lines over categories on a logarithmic scale; zeros lie on the lower edge."""
    shown = [value for line in lines for value in line.values if value > 0 and math.isfinite(value)]
    low = math.floor(math.log10(min(shown))) if shown else -1
    high = max(math.ceil(math.log10(max(shown))) if shown else 0, low + 1)

    def y(value: float) -> float:
        share = (math.log10(value) - low) / (high - low) if value > 0 else 0.0
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * min(max(share, 0.0), 1.0)

    def x(i: int) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * (i + 0.5) / max(len(labels), 1)

    parts = []
    for power in range(low, high + 1, max(1, math.ceil((high - low) / 6))):
        level = y(10.0**power)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{level:.1f}" y2="{level:.1f}"/>')
        parts.append(text(LEFT - 4, level + 3, f"1e{power}", "tick end"))
    every = math.ceil(len(labels) / MAX_LABELS)
    parts += [text(x(i), HEIGHT - BOTTOM + 14, label, "tick") for i, label in enumerate(labels) if i % every == 0]
    for line in lines:
        points = [(x(i), y(value), value) for i, value in enumerate(line.values) if not math.isnan(value)]
        path = " ".join(f"{px:.1f},{py:.1f}" for px, py, _ in points)
        parts.append(f'<polyline class="line {line.style}" points="{path}"/>')
        parts += [
            f'<circle class="dot {line.style}" cx="{px:.1f}" cy="{py:.1f}" r="3">'
            f"<title>{line.name}: {value:.3g}</title></circle>"
            for px, py, value in points
        ]
    parts.append(text(LEFT + (WIDTH - LEFT - RIGHT) / 2, HEIGHT - 6, across, "axis"))
    figures = "; ".join(f"{line.name} {', '.join(f'{value:.3g}' for value in line.values)}" for line in lines)
    return svg("".join(parts), f"{caption}: {figures}")


def svg(content: str, description: str) -> Markup:
    """Return a drawing that scales with the page, and says in words what it shows."""
    label = Markup.escape(description)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(
        WIDTH,
        HEIGHT,
        label,
        Markup(content),  # noqa: S704 - made of numbers and of escaped labels
    )


def text(x: float, y: float, content: str, style: str) -> str:
    """Return a piece of text, centred unless the style says otherwise."""
    return f'<text class="{style}" x="{x:.1f}" y="{y:.1f}">{Markup.escape(content)}</text>'


def by_category(rows: Mapping[str, float], labels: Sequence[str]) -> list[float]:
    """Return the values of some categories in order, NaN where there is none."""
    return [rows.get(label, math.nan) for label in labels]


def key(style: str) -> Markup:
    """Return a short piece of a line, for the key below a chart."""
    drawing = '<svg viewBox="0 0 28 8" aria-hidden="true"><line class="line {}" x1="0" x2="28" y1="4" y2="4"/></svg>'
    return Markup(drawing).format(style)  # noqa: S704 - a constant
