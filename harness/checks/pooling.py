"""What one operation errs in common over layers and cases, pooled into one statistic."""

from __future__ import annotations

from collections.abc import Sequence

from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic, pooled

TOKEN_ALONE = ("attention.norm", "attention.query", "attention.key", "attention.value")
"""Operations whose value in layer 0 depends on nothing but the token."""


def pooled_systematic(found: Sequence[tuple[str, Comparison]]) -> tuple[Systematic, ...]:
    """Pool the systematic statistics of one operation over layers and cases, each given with its case's id.

    Where a value depends on the token alone, several cases of a preset measure the same; only the largest counts.
    """
    largest: dict[object, Comparison] = {}
    for case, comparison in found:
        alone = comparison.operation == "embedding" or (comparison.layer == 0 and comparison.operation in TOKEN_ALONE)
        key = case.split("/")[0] if alone else (case, comparison.call, comparison.tap)
        largest[key] = max(largest.get(key, comparison), comparison, key=lambda each: each.num_elements)
    return pooled(one for comparison in largest.values() for one in comparison.systematic)
