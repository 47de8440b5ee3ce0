from __future__ import annotations

import numpy as np

from grok_conformance.harness.cases.ladder import BORDERS, SIZES, Rung, make_rung, rungs

BY_NAME = {size.name: size for size in SIZES}


def rung_of(name: str, border: int) -> Rung:
    return make_rung(BY_NAME[name], border, "float32", seed=4)


def test_every_size_has_a_rung_at_each_of_its_borders() -> None:
    found = [(rung.size.name, rung.border) for rung in rungs(0) if rung.border < 18]
    assert found == [(size.name, border) for size in SIZES for border in size.borders if border < 18]
    assert max(BORDERS) > 256


def test_a_rung_stands_at_its_border() -> None:
    prompt, cache = rung_of("prompt", 17).case, rung_of("cache", 17).case
    assert prompt.calls[0].tokens.shape == (2, 17)
    assert [int(call.lengths[0]) for call in cache.calls] == [15, 1, 1, 1, 1]
    assert rung_of("width", 17).preset.config.model.emb_size == 17
    assert rung_of("hidden", 32).preset.config.axis_sizes["f"] == 32
    assert rung_of("heads", 17).preset.config.model.num_q_heads == 16
    assert rung_of("vocabulary", 17).preset.weights["language_model/in_out_embed/embeddings"].shape == (17, 12)
    assert len(rung_of("batch", 7).case.calls[0].tokens) == 7
    experts = rung_of("expert_tokens", 17).preset.config.model
    assert experts.num_experts == experts.num_selected_experts


def test_a_seed_repeats_a_rung_and_another_changes_it() -> None:
    one, two = (make_rung(BY_NAME["width"], 16, "float32", seed) for seed in (1, 2))
    same = make_rung(BY_NAME["width"], 16, "float32", 1)
    assert all(np.array_equal(x, same.preset.weights[name]) for name, x in one.preset.weights.items())
    assert np.array_equal(one.case.calls[0].tokens, same.case.calls[0].tokens)
    assert not np.array_equal(one.case.calls[0].tokens, two.case.calls[0].tokens)
    assert one.case.id != two.case.id
