"""Probes are what their recipes say, drawn alike everywhere, and such that an engine can load them."""

from __future__ import annotations

import numpy as np
import pytest

from grok_conformance.harness.cases.probes import PROBES, digest_of, make_probe, probe_cases
from grok_conformance.harness.cases.recipes import SIDE_FEATURE
from grok_conformance.harness.contract import DTYPES


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


def test_a_case_has_the_same_tokens_in_both_dtypes_and_a_reason() -> None:
    for wide, narrow in zip(probe_cases("*.float32"), probe_cases("*.bfloat16"), strict=True):
        assert wide.why == narrow.why != ""
        for one, other in zip(wide.calls, narrow.calls, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)


def test_calls_fit_the_cache() -> None:
    for case in probe_cases("*"):
        assert sum(int(call.lengths.max()) for call in case.calls) <= PROBES[case.preset].config.sequence_len


def test_a_sided_prompt_is_a_matched_filter_of_what_bf16_tables_of_cosines_err() -> None:
    probe = PROBES["probe_tables"]
    (case,) = probe_cases("probe_tables/*.bfloat16")
    tokens = case.calls[0].tokens[0]
    rows = make_probe("probe_tables").weights["language_model/in_out_embed/embeddings"]
    sides = np.sign(rows[tokens, SIDE_FEATURE])
    positions = np.arange(len(tokens))
    error = sum(
        cosine.astype(DTYPES["bfloat16"]) - cosine
        for cosine in (np.cos(positions * 10_000.0 ** (-2 * pair / 64)) for pair in range(*probe.recipe.pairs))
    )
    assert (tokens != probe.config.pad_token).all()
    assert abs(sides.mean()) < 0.01
    assert (sides * error).mean() > 0.7 * np.abs(error).mean()
