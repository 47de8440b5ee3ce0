"""What is published by name: signatures and behaviour of classes, functions and attributes, in the published order.

It is long because it is read beside the published text, from top to bottom, one statement for each of its names.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import typing
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from grok_conformance import reference
from grok_conformance.reference import checkpoint
from grok_conformance.reference.quantization import is_quantized
from tests.reference.checkpoint.tiny_checkpoints import ONE_LAYER
from tests.reference.published import relative_rms

ROOT = Path(__file__).resolve().parents[2]
MODEL = ONE_LAYER.model  # five experts, two of them chosen
B, T, D, E, C = 2, 3, MODEL.emb_size, MODEL.num_experts, MODEL.num_selected_experts
RANDOM = np.random.default_rng(17)
X = jnp.asarray(RANDOM.standard_normal((B, T, D)), jnp.float32)
MASK = jnp.array([[True, True, False], [True, False, False]])
MESH = reference.make_mesh((2, 4))


def parameters_of(function: Callable[..., Any]) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def run(function: Callable[..., Any], params: Any, *inputs: Any) -> Any:
    """The output of a function of haiku modules."""
    transformed: Any = hk.transform(function)
    return transformed.apply(params, None, *inputs)


def initialised_and_run(function: Callable[..., Any], *inputs: Any, fill: bool = True) -> tuple[Any, Any]:
    """The parameters of a function of modules, made by haiku and filled with random numbers, and its output on them."""
    transformed: Any = hk.transform(function)
    params = transformed.init(None, *inputs)
    if fill:
        params = jax.tree.map(lambda leaf: jnp.asarray(RANDOM.standard_normal(leaf.shape), leaf.dtype), params)
    return params, run(function, params, *inputs)


def float_params() -> Any:
    shapes = jax.eval_shape(lambda: reference.init(ONE_LAYER))
    return jax.tree.map(lambda leaf: RANDOM.standard_normal(leaf.shape).astype(np.float32), shapes)


# The two commands.


def test_requirements_ask_for_the_engine_of_the_reference_and_run_py_is_a_script_at_the_top() -> None:
    lines = (ROOT / "requirements.txt").read_text().split("\n")
    assert any("reference" in line for line in lines)
    assert not any(word in line for line in lines for word in ("cuda", "torch"))
    assert (ROOT / "run.py").is_file()


def test_run_py_samples_on_a_test_input_and_says_how_the_checkpoint_is_obtained(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error", str(ROOT / "run.py"), "--max-tokens", "2"]
    child = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)  # noqa: S603 - ours
    assert child.returncode == 0, child.stderr
    assert len(child.stdout.strip().split(",")) == 2
    first, second, *_ = child.stderr.splitlines()
    assert first.startswith("no checkpoint/ckpt-0 here: README.md, 'The weights of Grok-1', says how to get it")
    assert second == "sampling from a synthetic model of random weights, config small"
    assert "## The weights of Grok-1" in (ROOT / "README.md").read_text()


# QuantizedWeight8bit


def test_a_quantized_weight_8bit_has_weight_and_scales() -> None:
    assert parameters_of(reference.QuantizedWeight8bit) == ["weight", "scales"]
    made = reference.quantize(np.ones((6, 4), np.float32), 2)
    assert (made.weight.dtype, made.weight.shape, made.scales.shape) == (np.int8, (6, 4), (2, 4))


def quantised(params: Any) -> dict[str, Any]:
    return {f"{module}/{name}": x for module, leaf in params.items() for name, x in leaf.items() if is_quantized(x)}


def test_initialised_weights_are_quantised_on_request() -> None:
    found = quantised(reference.init(ONE_LAYER, quantize=4))
    assert len(found) == 7
    assert found["transformer/decoder_layer_0/moe/linear_1/w"].scales.shape == (E, 4, D)
    assert not quantised(reference.init(ONE_LAYER))


def test_loaded_weights_are_quantised_on_request(tmp_path: Path) -> None:
    params = float_params()
    checkpoint.save(tmp_path, ONE_LAYER, params)
    loaded = quantised(checkpoint.load(tmp_path, ONE_LAYER, quantize=4))
    assert len(loaded) == 7
    for path, leaf in loaded.items():
        module, _, name = path.rpartition("/")
        expected = reference.quantize(params[module][name], leaf.scales.shape[-2])
        np.testing.assert_array_equal(leaf.weight, expected.weight)
        np.testing.assert_array_equal(leaf.scales, expected.scales)


def test_scales_recover_approximate_weights() -> None:
    w = RANDOM.standard_normal((8, 6))
    assert relative_rms(reference.dequantize(reference.quantize(w)), w) < 0.01


# TrainingState


def test_a_training_state_is_a_named_tuple_of_params() -> None:
    assert issubclass(reference.TrainingState, tuple)
    assert reference.TrainingState._fields == ("params",)
    assert typing.get_type_hints(reference.TrainingState)["params"] == hk.Params


def test_the_files_of_a_checkpoint_stand_in_the_order_of_a_training_state(tmp_path: Path) -> None:
    params = float_params()
    folder = checkpoint.save(tmp_path, ONE_LAYER, params)
    state = reference.TrainingState(params)
    leaves = checkpoint.layout.in_file_order(state)
    assert all(leaf is found for (_, _, found), leaf in zip(leaves, jax.tree.leaves(state), strict=True))
    entries = checkpoint.index.read_index(folder)
    assert entries is not None
    assert [entry.parameter for entry in entries] == [f"{module}/{name}" for module, name, _ in leaves]


# ffn_size, apply_rules, cast_bfloat16, with_sharding_constraint, match


def test_ffn_size_is_two_thirds_of_the_widened_size_rounded_up_to_a_multiple_of_8() -> None:
    assert parameters_of(reference.ffn_size) == ["emb_size", "widening_factor"]
    assert (reference.ffn_size(6144, 8), reference.ffn_size(100, 4), reference.ffn_size(12, 1)) == (32768, 272, 8)


def test_apply_rules_returns_the_closure_apply_rules_of_path_and_value() -> None:
    closure = reference.apply_rules([(("a", "w"), P("data"))])
    assert parameters_of(reference.apply_rules) == ["rules"]
    assert closure.__name__ == "_apply_rules"
    assert parameters_of(closure) == ["path", "value"]
    tree = {"x/a": {"w": 0}, "x/c": {"w": 0}}
    assert jax.tree_util.tree_map_with_path(closure, tree) == {"x/a": {"w": P("data")}, "x/c": {"w": None}}


@pytest.mark.parametrize(("dtype", "cast"), [("float32", "bfloat16"), ("float16", "bfloat16"), ("int8", "int8")])
def test_cast_bfloat16_casts_floating_point_types_only(dtype: str, cast: str) -> None:
    assert parameters_of(reference.cast_bfloat16) == ["x"]
    assert reference.cast_bfloat16(jnp.ones(2, dtype)).dtype == cast


def test_with_sharding_constraint_returns_x_itself_without_a_mesh_and_places_it_on_one() -> None:
    assert parameters_of(reference.with_sharding_constraint) == ["x", "constraint"]
    assert reference.with_sharding_constraint(X, constraint=P(None, None, "model")) is X
    with jax.set_mesh(MESH):
        placed = jax.jit(lambda x: reference.with_sharding_constraint(x, P("data", None, "model")))(X)
    assert placed.sharding.shard_shape(placed.shape) == (1, T, D // 4)


def test_match_finds_a_window_of_components_that_all_patterns_match() -> None:
    assert parameters_of(reference.match) == ["qs", "ks"]
    assert reference.match(("moe", "(linear|linear_v)"), ("decoder_layer_3", "moe", "linear_v", "w"))
    assert not reference.match(("moe", "w"), ("moe", "linear", "w"))


# The rule tables


def test_transformer_partition_rules_are_a_list_of_pattern_tuples_and_specs() -> None:
    rules = reference.TRANSFORMER_PARTITION_RULES
    assert isinstance(rules, list)
    assert rules[:2] == [
        (("multi_head_attention", "(query|key|value)", "w"), P("data", "model")),
        (("multi_head_attention", "(query|key|value)", "b"), P(None)),
    ]
    for rule in (
        (("decoder_layer_[0-9]+", "linear", "w"), P("data", "model")),
        (("decoder_layer_[0-9]+", "linear", "b"), P(None)),
        (("decoder_layer_[0-9]+", "layer_norm", "offset"), P(None)),
        (("decoder_layer_[0-9]+", "rms_norm", "scale"), P(None)),
        (("router", "w"), P("data")),
        (("moe", "linear", "w"), P(None, "data", "model")),
        (("moe", "linear_v", "w"), P(None, "data", "model")),
        (("moe", "linear_1", "w"), P(None, "model", "data")),
        (("moe", "layer_norm", "scale"), P(None)),
        (("moe", "rms_norm", "scale"), P(None)),
    ):
        assert rule in rules


def test_lm_partition_rules_are_a_list_of_three() -> None:
    assert [
        (("language_model", "positional_embeddings"), P(None, ("data", "model"))),
        (("language_model", "in_out_embed", "embeddings"), P(None, ("data", "model"))),
        (("language_model", "rms_norm"), P(None)),
    ] == reference.LM_PARTITION_RULES


# KVMemory


def test_a_kv_memory_holds_optional_k_v_and_step() -> None:
    assert reference.KVMemory._fields == ("k", "v", "step")
    assert set(typing.get_type_hints(reference.KVMemory).values()) == {jax.Array | None}


TOKENS = np.array([[5, 9, 40], [3, 17, 22]], np.int32)


def logits_and_memory(params: Any, tokens: Any, memory: reference.Memory) -> tuple[Any, reference.Memory]:
    output = reference.apply(ONE_LAYER, params, tokens, memory=memory)
    assert isinstance(output, reference.LanguageModelOutput)
    assert output.model_state is not None
    return output.logits, output.model_state


def test_a_kv_memory_of_none_is_an_empty_one_that_the_first_call_fills() -> None:
    params = float_params()
    empty = reference.Memory([reference.KVMemory(None, None, None)])
    logits, memory = logits_and_memory(params, TOKENS, empty)
    expected_logits, expected = logits_and_memory(params, TOKENS, reference.init_memory(ONE_LAYER, B, T))
    np.testing.assert_array_equal(logits, expected_logits)
    jax.tree.map(np.testing.assert_array_equal, memory, expected)
    (layer,) = memory.layers
    assert layer.k is not None
    assert layer.v is not None
    assert layer.k.shape == layer.v.shape == (B, T, MODEL.num_kv_heads, MODEL.key_size)


def test_step_counts_the_tokens_of_every_row_and_masks_the_future() -> None:
    params = float_params()
    memory = reference.init_memory(ONE_LAYER, B, 4)
    whole, _ = logits_and_memory(params, TOKENS, memory)
    for t in range(T):
        logits, memory = logits_and_memory(params, TOKENS[:, t : t + 1], memory)
        np.testing.assert_array_equal(memory.layers[0].step, [t + 1] * B)
        assert relative_rms(logits[:, 0], whole[:, t]) <= 1e-5


# Router


def make_router() -> reference.Router:
    return reference.Router(num_selected_experts=C)


def test_a_router_is_made_of_the_published_arguments() -> None:
    expected = ["num_selected_experts", "data_axis", "model_axis", "shard_activations", "mesh", "name"]
    assert parameters_of(reference.Router.__init__) == expected
    hk.transform(lambda: reference.Router(2, "data", "model", shard_activations=True, mesh=None, name="router"))


def test_compute_routing_prob_returns_probabilities_logits_and_0() -> None:
    assert parameters_of(reference.Router.compute_routing_prob) == ["inputs", "padding_mask", "num_experts"]
    params, (probs, logits, auxiliary) = initialised_and_run(
        lambda x: make_router().compute_routing_prob(inputs=x, padding_mask=None, num_experts=E), X
    )
    assert auxiliary == 0
    assert probs.shape == logits.shape == (B, T, E)
    assert relative_rms(logits, np.asarray(X) @ np.asarray(params["router"]["w"])) < 1e-6
    np.testing.assert_array_equal(probs, jax.nn.softmax(logits))


def test_compute_routing_prob_is_a_method_of_its_own_around_a_transparent_one_of_the_same_arguments() -> None:
    inner = reference.Router._compute_routing_prob
    assert parameters_of(inner) == ["inputs", "padding_mask", "num_experts"]
    params, found = initialised_and_run(lambda x: make_router().compute_routing_prob(x, MASK, E), X)
    assert params.keys() == {"router"}
    in_callers_scope = {"~": params["router"]}  # what a transparent method makes belongs to whoever calls it
    alone = run(lambda x: make_router()._compute_routing_prob(x, MASK, E), in_callers_scope, X)
    jax.tree.map(np.testing.assert_array_equal, alone, found)


def test_routing_is_computed_in_float32() -> None:
    _, (probs, logits, _) = initialised_and_run(
        lambda x: make_router()._compute_routing_prob(x, None, E), X.astype(jnp.bfloat16)
    )
    assert probs.dtype == logits.dtype == jnp.float32


def test_a_padding_mask_takes_the_probabilities_of_pads_away() -> None:
    _, (probs, logits, _) = initialised_and_run(lambda x: make_router().compute_routing_prob(x, MASK, E), X)
    np.testing.assert_array_equal(probs, np.where(MASK[..., None], jax.nn.softmax(logits), 0))


def test_router_weights_multiplies_by_w_which_starts_at_0() -> None:
    assert parameters_of(reference.Router._router_weights) == ["x", "num_experts", "sharding"]
    assert inspect.signature(reference.Router._router_weights).parameters["sharding"].default is None
    params, logits = initialised_and_run(lambda x: make_router()._router_weights(x, E), X, fill=False)
    assert params["~"]["w"].shape == (D, E)  # transparent too
    assert not np.any(params["~"]["w"])
    assert logits.shape == (B, T, E)


def test_router_weights_places_w_where_a_sharding_is_given() -> None:
    def program(sharding: P | None) -> str:
        def logits(w: Any) -> Any:
            return run(lambda x: make_router()._router_weights(x, E, sharding), {"~": {"w": w}}, X)

        return str(jax.make_jaxpr(logits)(jnp.ones((D, E))))

    with jax.set_mesh(MESH):
        assert "sharding_constraint" in program(P("data"))
        assert "sharding_constraint" not in program(None)
    assert "sharding_constraint" not in program(P("data"))


# MoELayer


def expert(x: jax.Array) -> jax.Array:
    return reference.DenseBlock(MODEL)(x)


def make_layer() -> reference.MoELayer:
    return reference.MoELayer(num_experts=E, layer_fn=expert, router=make_router())


def layer(x: Any) -> jax.Array:
    return make_layer()(x)


def test_a_moe_layer_is_made_of_the_published_arguments() -> None:
    assert parameters_of(reference.MoELayer.__init__) == [
        "num_experts",
        "layer_fn",
        "router",
        "mesh",
        "shard_activations",
        "data_axis",
        "model_axis",
        "name",
    ]


def test_inference_call_takes_inputs_and_padding_mask() -> None:
    assert parameters_of(reference.MoELayer._inference_call) == ["inputs", "padding_mask"]
    assert inspect.signature(reference.MoELayer._inference_call).parameters["padding_mask"].default is None
    params, output = initialised_and_run(layer, X)
    in_callers_scope = {name.removeprefix("moe/"): leaf for name, leaf in params.items()}  # it is transparent
    np.testing.assert_array_equal(run(lambda x: make_layer()._inference_call(x), in_callers_scope, X), output)


def test_the_experts_weights_are_a_batched_initialisation_of_layer_fn() -> None:
    asked: list[tuple[int, ...]] = []

    def layer_fn(x: jax.Array) -> jax.Array:
        asked.append(x.shape)
        w = hk.get_parameter("w", (D, 4), init=lambda shape, dtype: jax.random.normal(hk.next_rng_key(), shape, dtype))
        wider = replace(MODEL, widening_factor=2)
        return reference.DenseBlock(wider)(x) + jnp.sum(w)

    def experts(x: jax.Array) -> jax.Array:
        return reference.MoELayer(E, layer_fn, make_router())(x)

    params, _ = initialised_and_run(experts, X, fill=False)
    assert asked
    assert params["moe/linear"]["w"].shape == (E, D, reference.ffn_size(D, 2))
    assert params["moe/linear_1"]["w"].shape == (E, reference.ffn_size(D, 2), D)
    made = np.asarray(params["moe/~"]["w"])
    assert made.shape == (E, D, 4)
    assert len({each.tobytes() for each in made}) == E  # every expert with a key of its own


def by_hand(params: Any, x: Any, mask: Any = None) -> Any:
    """SPEC §4.6 for every expert, in float32."""
    linear, linear_v, linear_1 = (params[f"moe/{name}"]["w"] for name in ("linear", "linear_v", "linear_1"))
    probs = jax.nn.softmax(x @ params["router"]["w"])
    probs = probs if mask is None else probs * mask[..., None]
    hidden = jax.nn.gelu(jnp.einsum("btd,edf->btef", x, linear)) * jnp.einsum("btd,edf->btef", x, linear_v)
    outputs = jnp.einsum("btef,efd->bted", hidden, linear_1)
    gates, chosen = jax.lax.top_k(probs, C)
    picked = jnp.take_along_axis(outputs, chosen[..., None], axis=2)
    return jnp.sum(gates[..., None] * picked, axis=2)


def test_the_output_is_the_sum_of_the_top_k_experts_weighted_by_their_probabilities() -> None:
    params, output = initialised_and_run(layer, X)
    assert relative_rms(output, by_hand(params, X)) < 1e-6


def test_a_padding_mask_leaves_nothing_of_the_pads() -> None:
    params, output = initialised_and_run(lambda x: make_layer()(x, MASK), X)
    assert relative_rms(output, by_hand(params, X, MASK)) < 1e-6
    assert not np.any(np.asarray(output)[~np.asarray(MASK)])


def test_a_mesh_that_is_given_is_computed_on() -> None:
    params, expected = initialised_and_run(layer, X)

    def on_the_mesh(x: Any) -> Any:
        router = reference.Router(C, shard_activations=True, mesh=MESH)
        return reference.MoELayer(E, expert, router, mesh=MESH, shard_activations=True)(x)

    output = jax.jit(lambda params, x: run(on_the_mesh, params, x))(params, X)
    assert len(output.sharding.device_set) == 8
    assert relative_rms(output, expected) < 1e-6


def test_quantised_expert_weights_are_multiplied_by_their_scales() -> None:
    params, _ = initialised_and_run(layer, X)
    stored = {
        m: {n: reference.quantize(w, 2, np.float32) if "moe" in m else w for n, w in v.items()}
        for m, v in params.items()
    }
    widened = jax.tree.map(lambda w: reference.dequantize(w) if is_quantized(w) else w, stored, is_leaf=is_quantized)
    output = run(layer, jax.tree.map(jnp.asarray, stored), X)
    assert relative_rms(output, by_hand(widened, X)) < 1e-6


def test_moe_slow_matmul1_multiplies_copies_of_the_inputs_by_the_experts_of_their_index() -> None:
    assert parameters_of(reference.moe_slow_matmul1)[:3] == ["inputs", "weight", "index"]
    weight = jnp.asarray(RANDOM.standard_normal((E, D, 7)), jnp.float32)
    inputs, index = X.reshape(-1, D), jnp.array([4, 0, 0, 2, 1, 3])
    output = reference.moe_slow_matmul1(inputs, weight, index)
    assert relative_rms(output, jnp.einsum("mk,mkn->mn", inputs, weight[index])) < 1e-6


def test_moe_slow_matmul2_takes_the_scales_of_int8_weights_and_gives_float32() -> None:
    assert parameters_of(reference.moe_slow_matmul2)[:3] == ["inputs", "weight", "index"]
    weight = reference.quantize(RANDOM.standard_normal((E, D, 7)), 3, np.float32)
    inputs, index = X.reshape(-1, D), jnp.array([4, 0, 0, 2, 1, 3])
    output = reference.moe_slow_matmul2(inputs, weight, index)
    assert output.dtype == jnp.float32
    assert relative_rms(output, jnp.einsum("mk,mkn->mn", inputs, reference.dequantize(weight)[index])) < 1e-6
