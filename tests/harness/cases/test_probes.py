"""Probes are what their recipes say, drawn alike everywhere, and such that an engine can load them."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.probes import PROBES, digest_of, make_probe, probe_cases
from grok_conformance.harness.graph.oracle import dequantized


@pytest.mark.parametrize("name", PROBES)
def test_the_weights_are_those_that_were_designed(name: str) -> None:
    assert digest_of(make_probe(name).weights) == PROBES[name].digest


@pytest.mark.parametrize("name", PROBES)
def test_an_engine_can_load_a_probe(name: str) -> None:
    config, weights = PROBES[name].config, make_probe(name).weights
    model = config.model
    assert model.num_q_heads * model.key_size == model.emb_size
    assert (model.key_size, model.num_experts) == (64, 8)
    assert config.vocab_size >= 128
    assert all(np.isfinite(x.astype(np.float64)).all() for x in weights.values())
    norms = [x for key, x in weights.items() if key.endswith("/scale")]
    assert all((x != 0).all() for x in norms)
    matrices = [key for key in weights if key.endswith("/w.weight")]
    assert all(weights[key].dtype == np.int8 for key in matrices)


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


def test_a_case_has_the_same_tokens_in_both_dtypes_and_a_reason() -> None:
    for wide, narrow in zip(probe_cases("*.float32"), probe_cases("*.bfloat16"), strict=True):
        assert wide.why == narrow.why != ""
        for one, other in zip(wide.calls, narrow.calls, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)


def test_calls_fit_the_cache() -> None:
    for case in probe_cases("*"):
        assert sum(int(call.lengths.max()) for call in case.calls) <= PROBES[case.preset].config.sequence_len
