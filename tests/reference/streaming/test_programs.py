"""The compiled parts of a streamed model give what the whole model gives, for some rows of the table."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from grok_conformance import reference
from grok_conformance.reference.streaming import programs
from grok_conformance.reference.streaming.experts import multiply_rows
from tests.reference.slot_models import CONFIG, random_params

PARAMS = random_params(CONFIG)
TABLE = np.asarray(PARAMS["language_model/in_out_embed"]["embeddings"])
TOKENS = np.array([[5, 6, 7]], np.int32)


def test_the_embedding_of_given_rows_is_that_of_the_tokens() -> None:
    _, taps = reference.apply_with_taps(CONFIG, PARAMS, TOKENS, taps=["embedding"])
    embedded, collected = programs.embed(jnp.asarray(TABLE[TOKENS]), config=CONFIG, taps=("embedding",))
    np.testing.assert_array_equal(embedded, taps["embedding"])
    np.testing.assert_array_equal(collected["embedding"], taps["embedding"])


def test_logits_of_some_rows_are_those_columns_of_all() -> None:
    _, taps = reference.apply_with_taps(CONFIG, PARAMS, TOKENS, taps=["final_norm", "logits"])
    some = programs.logits(jnp.asarray(TABLE[8:16]), taps["final_norm"], config=CONFIG)
    np.testing.assert_allclose(some, taps["logits"][..., 8:16], rtol=1e-5, atol=1e-6)


def test_the_last_norm_is_the_model_s() -> None:
    last = f"layers.{CONFIG.model.num_layers - 1:02d}.output"
    _, taps = reference.apply_with_taps(CONFIG, PARAMS, TOKENS, taps=[last, "final_norm"])
    params = {"rms_norm": PARAMS["language_model/rms_norm"]}
    normed, _ = programs.final_norm(params, taps[last], taps=())
    np.testing.assert_allclose(normed, taps["final_norm"], rtol=1e-6)


def test_a_layer_multiplies_by_its_matrices_in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    multiplied: list[Any] = []

    def noted(x: Any, weight: Any) -> Any:
        multiplied.append(weight.shape)
        return multiply_rows(x, weight)

    monkeypatch.setattr(programs, "multiply_rows", noted)
    layer = {name.removeprefix("transformer/decoder_layer_0/"): leaves for name, leaves in PARAMS.items()}
    x = jnp.ones((1, 3, CONFIG.model.emb_size), CONFIG.fprop_dtype)
    programs.route(layer, x, jnp.ones((1, 3), bool), None, config=CONFIG, taps=())
    attention = [leaves["w"].shape for name, leaves in layer.items() if name.startswith("multi_head_attention/")]
    assert sorted(multiplied) == sorted(attention)
