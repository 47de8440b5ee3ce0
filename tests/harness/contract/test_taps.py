"""Names of taps: joined and split, in the order of the forward pass, and chosen by globs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import select_taps, split_tap, tap_name, tap_names
from grok_conformance.harness.contract.taps import LEVELS, tap_matches, tap_specs


@pytest.mark.parametrize(
    ("layer", "operation", "name"),
    [(3, "moe.norm", "layers.03.moe.norm"), (None, "logits", "logits"), (123, "output", "layers.123.output")],
)
def test_a_name_is_split_into_what_it_was_joined_from(layer: int | None, operation: str, name: str) -> None:
    assert tap_name(layer, operation) == name
    assert split_tap(name) == (layer, operation)


def test_names_follow_the_forward_pass_and_the_kind_of_block() -> None:
    names = tap_names(UNEQUAL)
    assert (names[0], names[-1]) == ("embedding", "logits")
    assert names.index("layers.00.output") < names.index("layers.01.attention.norm")
    dense = tap_names(replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1)))
    assert "layers.00.dense.hidden" in dense
    assert not [name for name in dense if "router" in name]


@pytest.mark.parametrize(
    ("pattern", "name", "matches"),
    [
        ("*", "logits", True),
        ("layers.*.output", "layers.00.output", True),
        ("layers.*.output", "layers.00.attention.output", False),
        ("*.kv.*", "layers.00.kv.keys", True),
        ("log*", "logits", True),
        ("embedding", "logits", False),
    ],
)
def test_a_star_stands_for_one_part_or_for_any_number_at_the_ends(pattern: str, name: str, *, matches: bool) -> None:
    assert tap_matches(name, pattern) is matches


def test_chosen_taps_keep_their_order_and_none_chooses_all() -> None:
    names = ("embedding", "layers.00.output", "logits")
    assert select_taps(names, ("logits", "embedding")) == ("embedding", "logits")
    assert select_taps(names, None) == names
    assert select_taps(names, ()) == ()


def test_every_tap_belongs_to_a_level_and_says_what_it_means() -> None:
    assert {spec.level for spec in tap_specs()} == set(LEVELS)
    assert all(spec.meaning and spec.axes for spec in tap_specs())
