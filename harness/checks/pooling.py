"""What one operation errs in common over layers and cases, pooled into one statistic."""

from __future__ import annotations

from collections.abc import Sequence

from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph
from grok_conformance.harness.measure.comparison import Comparison
from grok_conformance.harness.measure.systematic import Systematic, pooled


def pooled_systematic(found: Sequence[tuple[str, Comparison]], graph: ModelGraph = GROK_1) -> tuple[Systematic, ...]:
    """Pool the systematic statistics of one operation over layers and cases, each given with its case's id.

    Where a value depends on the token alone, several cases of a preset measure the same; only the largest counts.
    """
    largest: dict[object, Comparison] = {}
    for case, comparison in found:
        alone = comparison.layer in (0, None) and comparison.operation in graph.token_alone
        key = case.split("/")[0] if alone else (case, comparison.call, comparison.tap)
        largest[key] = max(largest.get(key, comparison), comparison, key=lambda each: each.num_elements)
    return pooled(one for comparison in largest.values() for one in comparison.systematic)
