"""Weights drawn by a recipe have what it says, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from grok_conformance.harness.cases.probes import PROBES, make_probe
from grok_conformance.harness.cases.recipes import CONSTANT_FEATURE, SIDE_FEATURE, draw, stored_matrix
from grok_conformance.harness.contract import grok_1
from grok_conformance.harness.graph.oracle import dequantized

LAYER = grok_1.LAYER.format(layer=0)


def test_a_silent_block_gives_zeros_and_another_does_not() -> None:
    silent = {"probe_moe": "multi_head_attention/value/w", "probe_attention": "moe/linear_1/w"}
    for name, matrix in silent.items():
        preset = make_probe(name)
        for other, quiet in ((matrix, True), ("multi_head_attention/query/w", False)):
            x = dequantized(preset.config, preset.weights, f"transformer/decoder_layer_0/{other}", "kept")
            assert (not x.any()) is quiet


def test_rows_of_the_embedding_are_orthonormal_but_for_the_feature_in_common() -> None:
    rows = make_probe("probe_moe").weights["language_model/in_out_embed/embeddings"].astype(np.float64)
    products = rows[:, 1:] @ rows[:, 1:].T * PROBES["probe_moe"].config.embedding_multiplier_scale ** 2 / rows.shape[1]
    np.testing.assert_allclose(np.diag(products), 1, atol=0.1)
    assert np.abs(products - np.diag(np.diag(products))).max() < 0.05


def test_attention_is_shifted_in_its_pairs_alone_and_the_rest_of_queries_is_scaled() -> None:
    config, recipe = PROBES["probe_tables"].config, PROBES["probe_tables"].recipe
    heads, width = config.model.num_q_heads, config.model.key_size
    with_it, without = (
        stored_matrix(draw(config, replace(recipe, attention=shift)), LAYER + grok_1.QUERY).reshape(-1, heads, width)
        for shift in (recipe.attention, 0.0)
    )
    large = np.abs(with_it[CONSTANT_FEATURE]) > 1.0
    assert (np.nonzero(large.all(0))[0] == np.arange(*recipe.pairs)).all()
    others = ~large.any(0)
    assert with_it[2:, :, others].std() < 0.15 * without[2:, :, others].std()


def test_sides_reach_the_values_of_attention_and_not_its_scores() -> None:
    weights = make_probe("probe_tables").weights
    assert not stored_matrix(weights, LAYER + grok_1.QUERY)[SIDE_FEATURE].any()
    assert not stored_matrix(weights, LAYER + grok_1.KEY)[SIDE_FEATURE].any()
    values = stored_matrix(weights, LAYER + grok_1.VALUE)
    assert np.abs(values[SIDE_FEATURE]).min() > 10 * values[2:].std()
