from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract import (
    DTYPES,
    LEVELS,
    LanguageModelConfig,
    ffn_size,
    select_taps,
    split_tap,
    tap_name,
    tap_names,
    tap_specs,
)
from grok_conformance.harness.contract.grok_1 import PUBLISHED

DENSE = replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1, num_selected_experts=1))


def test_ffn_size_of_grok_1_is_32768() -> None:
    assert ffn_size(6144, 8) == 32768


@given(st.integers(1, 10_000), st.floats(1, 16))
def test_ffn_size_is_the_next_multiple_of_8_above_two_thirds(emb_size: int, widening_factor: float) -> None:
    wanted = int(widening_factor * emb_size) * 2 // 3
    assert ffn_size(emb_size, widening_factor) % 8 == 0
    assert wanted <= ffn_size(emb_size, widening_factor) < wanted + 8


def test_axis_sizes_of_grok_1_are_those_of_the_specification() -> None:
    sizes = {"s": 8192, "d": 6144, "q": 48, "g": 8, "r": 6, "h": 128, "e": 8, "c": 2, "f": 32768, "v": 131072}
    assert PUBLISHED.axis_sizes == sizes


def test_config_survives_json_bit_for_bit_and_real_numbers_travel_as_strings() -> None:
    data = PUBLISHED.to_json()
    assert LanguageModelConfig.from_json(data) == PUBLISHED
    assert data["embedding_multiplier_scale"] == "78.38367176906169"
    assert data["model"]["attn_output_multiplier"] == "0.08838834764831845"
    assert data["model"]["num_layers"] == 64


@pytest.mark.parametrize("field", ["pad_token", "output_multiplier_scale", "model"])
def test_config_without_a_field_is_refused(field: str) -> None:
    data = {key: value for key, value in PUBLISHED.to_json().items() if key != field}
    with pytest.raises(TypeError, match=field):
        LanguageModelConfig.from_json(data)


def test_config_with_an_unknown_field_is_refused() -> None:
    with pytest.raises(TypeError, match="rope_base"):
        LanguageModelConfig.from_json({**PUBLISHED.to_json(), "rope_base": "10000.0"})


@given(st.one_of(st.none(), st.integers(0, 200)), st.sampled_from([spec.operation for spec in tap_specs()]))
def test_a_tap_name_splits_into_what_it_was_joined_from(layer: int | None, operation: str) -> None:
    assert split_tap(tap_name(layer, operation)) == (layer, operation)


def test_layers_have_two_digits_at_least() -> None:
    assert [tap_name(layer, "output") for layer in (3, 63, 100)] == [
        "layers.03.output",
        "layers.63.output",
        "layers.100.output",
    ]


def test_taps_come_once_each_in_the_order_of_the_forward_pass() -> None:
    names = tap_names(PUBLISHED)
    assert len(names) == len(set(names))
    assert (names[0], *names[-2:]) == ("embedding", "final_norm", "logits")
    layers = [layer for layer in (split_tap(name)[0] for name in names) if layer is not None]
    assert layers == sorted(layers)
    assert set(layers) == set(range(64))


def test_a_dense_block_has_no_router_and_no_experts() -> None:
    dense, moe = set(tap_names(DENSE)), set(tap_names(UNEQUAL))
    assert not [name for name in dense if "router" in name or "expert" in name]
    assert not [name for name in moe if "dense" in name]
    assert {split_tap(name)[1] for name in dense - moe} == {"dense.activation", "dense.up", "dense.hidden"}


def test_the_contract_names_known_axes_dtypes_levels_and_kinds() -> None:
    for spec in tap_specs():
        assert set(spec.axes) <= set("btsdgrqhecfv")
        assert spec.dtype in {*DTYPES, "fprop", "cache", "expert"}
        assert spec.level in LEVELS
        assert spec.compared in {"tokens", "slots", "visible", "weights"}
        assert re.fullmatch(r"(layers\.\*\.)?[a-z_]+(\.[a-z_]+)?", spec.name)


def test_what_decides_experts_is_float32_and_their_numbers_are_integers() -> None:
    dtypes = {spec.operation: spec.dtype for spec in tap_specs()}
    assert dtypes["router.logits"] == dtypes["router.probabilities"] == dtypes["moe.expert_gate"] == "float32"
    assert dtypes["moe.expert_hidden"] == dtypes["moe.expert_output"] == dtypes["attention.logits"] == "float32"
    assert dtypes["moe.expert_index"] == "int32"


def test_select_taps_keeps_the_order_of_the_names_and_matches_case() -> None:
    names = ("logits", "layers.00.output", "layers.01.output")
    assert select_taps(names, ["layers.*.output", "logits"]) == names
    assert select_taps(names, ["LOGITS"]) == ()
    assert select_taps(names, []) == ()
    assert select_taps(names, None) == names


@pytest.mark.parametrize(
    ("pattern", "name", "fits"),
    [
        ("layers.*.output", "layers.00.output", True),
        ("layers.*.output", "layers.00.attention.output", False),
        ("layers.*.output", "layers.00.moe.output", False),
        ("layers.*.attention.*", "layers.11.attention.query", True),
        ("layers.*", "layers.00.moe.output", True),
        ("layers.01.*", "layers.01.router.logits", True),
        ("layers.01.*", "layers.10.router.logits", False),
        ("*.moe.expert_*", "layers.00.moe.expert_gate", True),
        ("*.moe.expert_*", "layers.00.moe.output", False),
        ("*.kv.*", "layers.00.kv.keys", True),
        ("*.output", "layers.00.moe.output", True),
        ("*.logits", "logits", False),
        ("*", "layers.00.kv.keys", True),
        ("logits", "logits", True),
    ],
)
def test_a_star_within_a_pattern_stands_for_one_part_of_a_name(pattern: str, name: str, fits: bool) -> None:  # noqa: FBT001 - data
    assert bool(select_taps([name], [pattern])) is fits
