"""Taps are collected where they are wanted, under the names of the contract, and change nothing."""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp
import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import tap_names as names_of_the_contract
from grok_conformance.reference.taps import collect_taps, layer_taps, select_taps, tap, tap_names, wanted
from tests.reference.slot_models import CONFIG


def test_the_names_are_those_of_the_contract_for_experts_and_for_a_dense_block() -> None:
    for num_experts in (3, 1):
        own = replace(CONFIG, model=replace(CONFIG.model, num_experts=num_experts))
        theirs = replace(
            UNEQUAL, model=replace(UNEQUAL.model, num_experts=num_experts, num_layers=CONFIG.model.num_layers)
        )
        assert tap_names(own) == names_of_the_contract(theirs)


def test_only_what_is_wanted_is_collected_and_the_value_is_returned_as_it_is() -> None:
    x = jnp.ones(2)
    with collect_taps(["layers.01.moe.norm"]) as collected:
        with layer_taps(1):
            assert wanted("moe.norm")
            assert tap("moe.norm", x) is x
        assert tap("logits", x) is x
    assert list(collected) == ["layers.01.moe.norm"]
    assert not wanted("moe.norm")


def test_globs_choose_taps_in_their_order_and_one_that_matches_none_is_named() -> None:
    assert select_taps(CONFIG, ["logits", "embedding"]) == ("embedding", "logits")
    assert select_taps(CONFIG, None) == tap_names(CONFIG)
    with pytest.raises(ValueError, match="no tap matches 'logit'"):
        select_taps(CONFIG, ["logit"])
