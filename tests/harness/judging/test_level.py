"""How much of the computation a candidate shows."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import TransformerConfig, tap_names
from grok_conformance.harness.judging.level import level_of, missing_taps

DENSE = replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1, num_selected_experts=1))


@pytest.mark.parametrize(
    ("patterns", "level"),
    [
        (("*",), "caches"),
        (("logits",), "logits"),
        (("logits", "*.router.*", "*.expert_index", "*.expert_gate"), "routes"),
        (("logits", "*.router.*", "*.expert_index"), "logits"),
        (("logits", "*.router.logits", "*.expert_index", "*.expert_gate"), "routes"),  # they tell the probabilities
        (("logits", "*.router.logits", "*.expert_index"), "logits"),
        (("*.router.*", "*.expert_index", "*.expert_gate"), "none"),
        ((), "none"),
    ],
)
def test_a_level_asks_for_all_its_taps_and_those_of_every_lower_level(patterns: tuple[str, ...], level: str) -> None:
    assert level_of(patterns, UNEQUAL) == level


def test_all_but_the_caches_is_the_level_of_layers() -> None:
    patterns = [name for name in tap_names(UNEQUAL) if ".kv." not in name]
    assert level_of(patterns, UNEQUAL) == "layers"
    assert level_of([*patterns, "layers.00.kv.*"], UNEQUAL) == "layers"
    assert level_of([*patterns, "*.kv.*"], UNEQUAL) == "caches"


def test_a_dense_model_has_no_routes_to_show() -> None:
    assert isinstance(DENSE.model, TransformerConfig)
    assert level_of(("logits",), DENSE) == "routes"


@pytest.mark.parametrize(
    ("level", "first", "last"),
    [
        ("none", "logits", "logits"),
        ("logits", "router.logits", "moe.expert_gate"),
        ("routes", "embedding", "final_norm"),
        ("layers", "kv.keys", "kv.values"),
    ],
)
def test_the_taps_that_the_next_level_would_add_are_told(level: str, first: str, last: str) -> None:
    added = missing_taps((), UNEQUAL, level)
    assert (added[0], added[-1]) == (first, last)
    assert missing_taps(("*",), UNEQUAL, level) == ()


def test_what_is_shown_already_is_not_added_by_the_next_level() -> None:
    assert missing_taps(("logits", "*.router.*"), UNEQUAL, "logits") == ("moe.expert_index", "moe.expert_gate")
    assert missing_taps(("*",), UNEQUAL, "caches") == ()
