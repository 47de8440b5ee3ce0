"""The parameter tree that the specification writes down is the one that the modules make."""

from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from grok_conformance.reference import PRESETS, LanguageModelConfig, init
from grok_conformance.reference.parameters import TrainingState, parameter_shapes
from grok_conformance.reference.quantization import is_quantized

SMALL = PRESETS["small"]
DENSE = replace(SMALL, model=replace(SMALL.model, num_experts=1, num_selected_experts=1))


@pytest.mark.parametrize("config", [SMALL, DENSE])
def test_paths_and_shapes_are_those_of_the_modules(config: LanguageModelConfig) -> None:
    made = jax.eval_shape(lambda: init(config))
    written = parameter_shapes(config)
    assert {(path, name): leaf.shape for path, names in made.items() for name, leaf in names.items()} == {
        (path, name): leaf.shape for path, names in written.items() for name, leaf in names.items()
    }


def test_parameters_initialise_to_zero_norms_too() -> None:
    config = replace(SMALL, model=replace(SMALL.model, num_layers=1))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(init(config)))


def test_norms_router_and_embedding_are_float32_and_all_else_is_quantised() -> None:
    for path, names in parameter_shapes(SMALL).items():
        for leaf in names.values():
            plain = "norm" in path or path.endswith(("router", "in_out_embed"))
            assert is_quantized(leaf) is not plain, path


def test_only_row_parallel_weights_have_groups_of_scales() -> None:
    shapes = parameter_shapes(SMALL, num_groups=4)
    groups = {
        path.rpartition("layer_0/")[2]: names["w"].scales.shape
        for path, names in shapes.items()
        if "w" in names and "layer_0/" in path and is_quantized(names["w"])
    }
    assert groups == {
        "multi_head_attention/query": (1, 80),
        "multi_head_attention/key": (1, 40),
        "multi_head_attention/value": (1, 40),
        "multi_head_attention/linear": (4, 96),
        "moe/linear": (6, 1, 256),
        "moe/linear_v": (6, 1, 256),
        "moe/linear_1": (6, 4, 96),
    }


def test_flatten_order_sorts_layers_as_strings() -> None:
    config = replace(SMALL, model=replace(SMALL.model, num_layers=12))
    paths = [
        "/".join(str(getattr(key, "key", key)) for key in path)
        for path, _ in jax.tree_util.tree_flatten_with_path(
            TrainingState(parameter_shapes(config)), is_leaf=is_quantized
        )[0]
    ]
    layers = list(dict.fromkeys(path.split("decoder_layer_")[1].split("/")[0] for path in paths if "decoder" in path))
    assert layers == ["0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9"]
