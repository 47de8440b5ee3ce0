"""The plot of `scaling.py`: a chart for each of what grows, in one SVG that needs no style sheet."""

from __future__ import annotations

from collections.abc import Sequence

from grok_conformance.harness.report.charts import HEIGHT, STYLES, WIDTH, Line, line_chart, text
from tests.benchmarks.scaling_curves import Curve, power_law

COLUMNS = 2
TITLE_HEIGHT, KEY_HEIGHT, GAP = 22, 30, 14
COLOURS = ("#0b62a4", "#b8460e", "#3b7a2a")
DASHES = ("none", "7 3", "2 3")

STYLE = """
text { font: 12px system-ui, sans-serif; fill: #222; text-anchor: middle }
.end { text-anchor: end } .start { text-anchor: start } .title { font-weight: 600; text-anchor: start }
.grid { stroke: #ddd } .line { fill: none; stroke-width: 2 } .dot { stroke: none }
"""


def draw(curves: Sequence[Curve]) -> str:
    """Return the plot of curves as an SVG document, both scales of every chart logarithmic."""
    axes = list(dict.fromkeys(curve.axis for curve in curves))
    names = list(dict.fromkeys(curve.measured for curve in curves))
    styles = dict(zip(names, STYLES, strict=False))
    width, step = COLUMNS * WIDTH + (COLUMNS - 1) * GAP, TITLE_HEIGHT + HEIGHT + GAP
    height = KEY_HEIGHT + -(-len(axes) // COLUMNS) * step
    parts = [f"<style>{STYLE}{colours()}</style>", f'<rect width="{width}" height="{height}" fill="white"/>']
    parts.append(text(12 + 150 * len(names), 19, "and above each chart the exponents", "start"))
    parts += [key_of(number, name, styles[name]) for number, name in enumerate(names)]
    for number, axis in enumerate(axes):
        row, column = divmod(number, COLUMNS)
        own = [curve for curve in curves if curve.axis == axis]
        parts.append(placed(chart_of(axis, own, styles), column * (WIDTH + GAP), KEY_HEIGHT + row * step))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return f"{head}{''.join(parts)}</svg>\n"


def chart_of(axis: str, curves: Sequence[Curve], styles: dict[str, str]) -> str:
    """Return the chart of what grows along an axis, below a line with the exponents."""
    lines = [Line(curve.measured, curve.seconds, styles[curve.measured]) for curve in curves]
    labels = [str(extent) for extent in curves[0].extents]
    chart = str(line_chart(labels, lines, f"seconds by {axis}", across=axis))
    exponents = ", ".join(f"{curve.measured} {power_law(curve).exponent:.2f}" for curve in curves)
    title = text(4, TITLE_HEIGHT - 7, f"{axis}: {exponents}", "title")
    size = f'<svg y="{TITLE_HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
    return title + chart.replace("<svg ", size, 1)


def placed(content: str, x: int, y: int) -> str:
    """Return a drawing moved to a place."""
    return f'<g transform="translate({x} {y})">{content}</g>'


def key_of(number: int, name: str, style: str) -> str:
    """Return the key of a line: a piece of it and what was measured, which is told in seconds."""
    x = 12 + 150 * number
    line = f'<line class="line {style}" x1="{x}" x2="{x + 28}" y1="15" y2="15"/>'
    return line + text(x + 36, 19, f"{name}, s", "start")


def colours() -> str:
    """Return the style of every line and of its dots, told apart by colour and by dashes."""
    return "".join(
        f".line.{style} {{ stroke: {colour}; stroke-dasharray: {dash} }} .dot.{style} {{ fill: {colour} }}\n"
        for style, colour, dash in zip(STYLES, COLOURS, DASHES, strict=True)
    )
