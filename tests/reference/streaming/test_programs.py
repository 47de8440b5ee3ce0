"""The compiled parts of a streamed model give what the whole model gives, for some rows of the table."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from grok_conformance import reference
from grok_conformance.reference.checkpoint.arrays import aligned_empty
from grok_conformance.reference.layers import computable
from grok_conformance.reference.quantization import quantize
from grok_conformance.reference.streaming import programs
from grok_conformance.reference.streaming.files import stored_weight
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


def test_prepared_weights_are_those_stored_and_those_of_the_attention_are_widened() -> None:
    layer = {name.removeprefix("transformer/decoder_layer_0/"): leaves for name, leaves in PARAMS.items()}
    weight = quantize(np.random.default_rng(0).standard_normal((8, 8)), 2)
    layer = {"rms_norm": layer["rms_norm"], "router": {"w": weight}, "multi_head_attention/query": {"w": weight}}
    prepared = programs.prepare(layer, config=CONFIG)
    np.testing.assert_array_equal(
        prepared["multi_head_attention/query"]["w"], computable(jax.tree.map(jnp.asarray, weight), CONFIG.fprop_dtype)
    )
    assert prepared["multi_head_attention/query"]["w"].dtype == CONFIG.fprop_dtype
    np.testing.assert_array_equal(prepared["router"]["w"].weight, weight.weight)
    np.testing.assert_array_equal(prepared["rms_norm"]["scale"], layer["rms_norm"]["scale"])


def test_prepared_weights_outlive_the_memory_that_they_were_read_into() -> None:
    lent = aligned_empty([8], np.dtype(np.float32))
    lent[:] = 1.0
    prepared = programs.prepare({"rms_norm": {"scale": stored_weight([lent])}}, config=CONFIG)
    lent[:] = 2.0
    np.testing.assert_array_equal(prepared["rms_norm"]["scale"], 1.0)
