"""How much of the computation a candidate shows: its level, and the taps it lacks for it."""

from __future__ import annotations

from collections.abc import Sequence

from grok_conformance.harness.contract import LEVELS, LanguageModelConfig, select_taps, split_tap, tap_names, tap_specs


def level_of(taps: Sequence[str], config: LanguageModelConfig) -> str:
    """Return the highest level of which a candidate's globs show every tap, those of all lower levels included."""
    shown = set(select_taps(tap_names(config), taps))
    levels = {spec.operation: spec.level for spec in tap_specs()}
    reached = "none"
    for level in LEVELS:
        if any(levels[split_tap(tap)[1]] == level and tap not in shown for tap in tap_names(config)):
            break
        reached = level
    return reached


def missing_taps(taps: Sequence[str], config: LanguageModelConfig, level: str) -> tuple[str, ...]:
    """Return the operations that a candidate's globs do not show, of the level after the one given."""
    following = LEVELS[("none", *LEVELS).index(level) :][:1]
    shown = {split_tap(tap)[1] for tap in select_taps(tap_names(config), taps)}
    present = {split_tap(tap)[1] for tap in tap_names(config)}
    rows = [spec.operation for spec in tap_specs() if spec.level in following]
    return tuple(operation for operation in rows if operation in present and operation not in shown)
