"""The ways of a candidate in words, by operation, as a report tells them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from grok_conformance.harness.checks.exhibit import Exhibit
from grok_conformance.harness.contract import split_tap


def ways_in_words(exhibits: Sequence[Exhibit]) -> dict[str, str]:
    """Return by operation how it is computed in some cases, where it is not as published everywhere.

    Where that depends on the form of its weights or on the block before it, those that have it are named. Of what is
    hidden it is told at the next operation that is shown.
    """
    words: dict[str, str] = {}
    for row in exhibits[0].evidence.graph.operations if exhibits else ():
        forms: dict[tuple[str, ...], str] = {}
        for one in exhibits:
            graph = one.evidence.graph
            if row in graph.rows_of(one.evidence.config):
                forms[one.form_of(row)] = one.ways.describe(row)
        common = set[str]().union(*forms).intersection(*forms)
        alike = len(set(forms.values())) == 1
        parts = [
            text if alike else f"{text} ({', '.join(part for part in form if part not in common)})"
            for form, text in forms.items()
            if text
        ]
        text = "; ".join(dict.fromkeys(parts))
        words[row.tap] = "; ".join(dict.fromkeys(part for part in (words.get(row.tap, ""), text) if part))
    return where_shown({operation: text for operation, text in words.items() if text}, exhibits)


def where_shown(words: Mapping[str, str], exhibits: Sequence[Exhibit]) -> dict[str, str]:
    """Return words by operation with those of hidden ones beside the words of the next that is shown in some case."""
    shown = {split_tap(tap)[1] for one in exhibits for _, tap in one.evidence.observed}
    names = [spec.operation for spec in exhibits[0].evidence.graph.taps] if exhibits else []
    told: dict[str, list[str]] = {}
    for operation, text in words.items():
        following = [name for name in names[names.index(operation) :] if name in shown]
        place = following[0] if following else operation
        told.setdefault(place, []).append(text if place == operation else f"{operation}, which is hidden: {text}")
    return {operation: "; ".join(texts) for operation, texts in told.items()}
