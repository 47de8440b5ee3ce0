"""Figures read back from a report: numbers that JSON holds as text, and the ratio of a comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from grok_conformance.harness.contract import DTYPES
from grok_conformance.harness.measure.histogram import EDGES
from grok_conformance.harness.measure.words import MILLION, times


def number(value: Any) -> float:
    """Return a number of the report; infinity and NaN are strings there."""
    return math.nan if value is None else float(value)


def ratio_of(comparison: Mapping[str, Any]) -> float:
    """Return measured / allowed of the worst statistic of a comparison, infinite where no number can say it."""
    if comparison["problem"]:
        return math.inf
    scores = (systematic_ratio(one) for one in comparison.get("systematic", ()))
    return max(number(comparison["tail"]), number(comparison["bulk"]), *scores)


def systematic_ratio(one: Mapping[str, Any]) -> float:
    """Return measured / allowed of one systematic statistic."""
    beyond = max(0.0, abs(number(one["coefficient"])) - number(one["floor"]))
    unit = number(one["standard_error"]) * number(one["allowed"])
    return 0.0 if not beyond else beyond / unit if unit else math.inf


LEGEND = "1 is all that is allowed; rounding to bfloat16 alone takes 0.99 of it, and that is as it should be"
"""What a reader is told of measured / allowed."""


def short_ratio(ratio: float) -> str:
    """Return measured / allowed in at most five characters, `k` for thousands."""
    if not math.isfinite(ratio):
        return "∞"
    if ratio < 1000:  # noqa: PLR2004 - three digits
        return f"{ratio:.2f}" if ratio <= 1 else f"{ratio:.3g}"
    return "> 1M" if ratio >= MILLION else f"{ratio / 1000:.3g}k" if ratio < 99_500 else f"{ratio / 1000:.0f}k"  # noqa: PLR2004


def dtype_of(case: str) -> str:
    """Return the compute dtype that a case's id ends with, an empty string where it names none."""
    dtype = case.rpartition(".")[2]
    return dtype if dtype in DTYPES else ""


def added(histograms: Iterable[Sequence[int]]) -> list[int]:
    """Return the sum of some histograms; an empty one adds nothing."""
    total = [0] * (len(EDGES) + 1)
    for counts in histograms:
        total = [a + b for a, b in zip(total, counts or [0] * len(total), strict=True)]
    return total


@dataclass(frozen=True)
class Figures:
    """One element of a tap as the page writes it."""

    index: str
    observed: str
    exact: str
    expected: str
    error: str
    fence: str
    times: str


NOT_TOLD = "–"
"""Stands where there is no figure."""


def figures(element: Mapping[str, Any]) -> Figures:
    """Return one element as the page writes it."""
    observed, exact, expected, fence = (number(element[key]) for key in ("observed", "exact", "expected", "allowed"))
    error = abs(observed - exact)
    ratio = error / fence if fence > 0 else math.inf if error else 0.0
    return Figures(
        index=",".join(map(str, element["index"])),
        observed=f"{observed:.7g}",
        exact=told(exact, 7),
        expected=told(expected, 7),
        error=told(error, 3),
        fence=told(fence, 3),
        times=times(ratio) if math.isfinite(error) else NOT_TOLD,
    )


def told(figure: float, digits: int) -> str:
    """Return a figure to so many digits; none is expected in a drawn case, none allowed of what is not finite."""
    return NOT_TOLD if math.isnan(figure) else f"{figure:.{digits}g}"
