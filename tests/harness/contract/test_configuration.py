"""The configuration under its published names: the sizes that follow from it, and its form as JSON."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from grok_conformance.harness.cases.suite import UNEQUAL
from grok_conformance.harness.contract.configuration import LanguageModelConfig, ffn_size


@pytest.mark.parametrize(("emb_size", "widening", "size"), [(6144, 8, 32768), (8, 4, 24), (3, 2, 8), (40, 2.5, 72)])
def test_the_hidden_width_is_two_thirds_of_the_widened_one_rounded_up_to_8(
    emb_size: int, widening: float, size: int
) -> None:
    assert ffn_size(emb_size, widening) == size


def test_every_axis_letter_has_its_size() -> None:
    sizes = UNEQUAL.axis_sizes
    assert sizes["q"] == sizes["g"] * sizes["r"]
    assert set(sizes) == set("sdqgrhecfv")


def test_json_gives_back_every_field_and_holds_no_real_number() -> None:
    text = json.dumps(UNEQUAL.to_json(), allow_nan=False)
    assert LanguageModelConfig.from_json(json.loads(text)) == replace(
        UNEQUAL, model=replace(UNEQUAL.model, widening_factor=float(UNEQUAL.model.widening_factor))
    )
    json.loads(text, parse_float=pytest.fail)


@pytest.mark.parametrize("change", [{"vocab": 3}, {"pad_token": None}])
def test_unknown_and_missing_fields_are_refused(change: dict[str, object]) -> None:
    data = {**UNEQUAL.to_json(), **change}
    data = {name: value for name, value in data.items() if value is not None}
    with pytest.raises(TypeError):
        LanguageModelConfig.from_json(data)


def test_a_model_of_one_expert_is_dense() -> None:
    assert replace(UNEQUAL, model=replace(UNEQUAL.model, num_experts=1)).dense
    assert not UNEQUAL.dense
