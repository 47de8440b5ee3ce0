"""Charts draw every figure and say it in words."""

from __future__ import annotations

import math

from grok_conformance.harness.report.charts import Line, line_chart


def test_a_line_chart_draws_every_figure_and_says_them_in_words() -> None:
    drawn = line_chart(["0", "1", "2"], [Line("kl", [1e-3, math.nan, 0.0], "first")], "divergence", across="position")
    assert drawn.count("<circle") == 2
    assert 'aria-label="divergence: kl 0.001, nan, 0"' in drawn
