"""Rounding plans: one choice at every point, the published one unless another is named."""

from __future__ import annotations

from grok_conformance.harness.graph.rounding import (
    AS_PUBLISHED,
    RESULT,
    SUMS,
    rounding_point,
)

GELU = rounding_point("gelu", "rounded", "gelu kept in float32")


def test_a_plan_makes_the_published_choice_where_it_names_none() -> None:
    assert AS_PUBLISHED.at(GELU) == "rounded"
    other = AS_PUBLISHED.but(GELU, "kept")
    assert (other.at(GELU), other.at(RESULT)) == ("kept", "kept")
    assert other.but(GELU, "rounded") == AS_PUBLISHED


def test_only_what_is_done_otherwise_is_said() -> None:
    plan = AS_PUBLISHED.but(GELU, "kept").but(SUMS, "2 at once")
    assert AS_PUBLISHED.words([GELU, SUMS]) == ""
    assert plan.words([GELU, SUMS]) == "gelu kept in float32, 2 partial sums, each rounded, added in float32"
