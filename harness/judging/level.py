"""How much of the computation a candidate shows: its level, and the taps it lacks for it."""

from __future__ import annotations

from collections.abc import Sequence

from grok_conformance.harness.contract import LEVELS, LanguageModelConfig, select_taps, split_tap, tap_name
from grok_conformance.harness.graph.grok_1 import GROK_1
from grok_conformance.harness.graph.model_graph import ModelGraph

UNROUNDED = ("float32", "int32")
"""The dtypes of taps that nothing is rounded to."""


def level_of(taps: Sequence[str], config: LanguageModelConfig, graph: ModelGraph = GROK_1) -> str:
    """Return the highest level of which a candidate's globs show every tap, those of all lower levels included."""
    open_taps = shown_or_told(taps, config, graph)
    reached = "none"
    for level in LEVELS:
        wanted = {tap for tap in graph.tap_names(config) if graph.specs[split_tap(tap)[1]].level == level}
        if not wanted <= open_taps:
            break
        reached = level
    return reached


def missing_taps(
    taps: Sequence[str], config: LanguageModelConfig, level: str, graph: ModelGraph = GROK_1
) -> tuple[str, ...]:
    """Return the operations that a candidate's globs do not show, of the level after the one given."""
    following = LEVELS[("none", *LEVELS).index(level) :][:1]
    shown = {split_tap(tap)[1] for tap in shown_or_told(taps, config, graph)}
    present = {split_tap(tap)[1] for tap in graph.tap_names(config)}
    rows = [spec.operation for spec in graph.taps if spec.level in following]
    return tuple(operation for operation in rows if operation in present and operation not in shown)


def shown_or_told(taps: Sequence[str], config: LanguageModelConfig, graph: ModelGraph) -> set[str]:
    """Return the taps that a candidate's globs show, and those that its others tell as well.

    A kernel that chooses experts from their scores has no probabilities to show. Between shown taps nothing rounds
    them, nor what is made of them, so that a fault shows as clearly there.
    """
    names = graph.tap_names(config)
    shown = set(select_taps(names, taps))
    rows = graph.rows_of(config)
    around = {
        row.tap: {*row.inputs, *(other.tap for other in rows if row.tap in other.inputs)}
        for row in rows
        if not row.points and graph.specs[row.tap].dtype in UNROUNDED
        if all(graph.specs[other.tap].dtype in UNROUNDED for other in rows if row.tap in other.inputs)
    }
    told = {
        tap
        for tap in names
        for layer, operation in [split_tap(tap)]
        if operation in around and {tap_name(layer, other) for other in around[operation]} <= shown
    }
    return shown | told
