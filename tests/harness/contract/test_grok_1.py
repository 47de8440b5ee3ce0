"""What the release publishes, told once: the names, shapes and sharding of the weights are those of the reference."""

from __future__ import annotations

from dataclasses import replace

import pytest

from grok_conformance.harness.contract.grok_1 import LAYER, OF_A_LAYER, OF_THE_MODEL, PUBLISHED, StoredWeight
from grok_conformance.reference import GROK_1, partition_specs
from grok_conformance.reference.config import LanguageModelConfig as ReferenceConfig
from grok_conformance.reference.parameters import parameter_shapes
from grok_conformance.reference.quantization import is_quantized

DENSE = replace(GROK_1, model=replace(GROK_1.model, num_experts=1, num_selected_experts=1))


def weight_of(path: str) -> StoredWeight:
    below = LAYER.format(layer=0)
    return OF_A_LAYER[path.removeprefix(below)] if path.startswith(below) else OF_THE_MODEL[path]


def paths_of(config: ReferenceConfig) -> list[str]:
    """Return the stored names of the first layer, and of what no layer has."""
    other_layers = tuple(LAYER.format(layer=layer) for layer in range(1, config.model.num_layers))
    return [path for path in partition_specs(config) if not path.startswith(other_layers)]


def test_the_published_configuration_is_the_references() -> None:
    reference, own = GROK_1, PUBLISHED
    for name in ("vocab_size", "pad_token", "eos_token", "sequence_len"):
        assert getattr(own, name) == getattr(reference, name)
    assert own.embedding_multiplier_scale == reference.embedding_multiplier_scale
    assert own.output_multiplier_scale == reference.output_multiplier_scale
    assert own.model.attn_output_multiplier == reference.model.attn_output_multiplier
    assert own.axis_sizes["f"] == reference.model.ffn_size


def test_the_names_of_the_weights_are_those_of_the_references_parameters() -> None:
    named = {path for config in (GROK_1, DENSE) for path in paths_of(config)}
    assert named == {*OF_THE_MODEL, *(LAYER.format(layer=0) + path for path in OF_A_LAYER)}


@pytest.mark.parametrize("config", [GROK_1, DENSE], ids=["experts", "dense"])
def test_every_weight_is_sharded_as_the_reference_shards_it(config: ReferenceConfig) -> None:
    specs = partition_specs(config)
    for path in paths_of(config):
        shown = [list(axis) if isinstance(axis, tuple) else axis for axis in specs[path] or ()]
        expected = list(weight_of(path).sharding)
        assert shown + [None] * (len(expected) - len(shown)) == expected, path


@pytest.mark.parametrize("config", [GROK_1, DENSE], ids=["experts", "dense"])
def test_every_weight_has_the_axes_of_its_shape_and_only_matrices_are_quantised(
    config: ReferenceConfig,
) -> None:
    sizes = dict(PUBLISHED.axis_sizes)
    sizes |= {"(q h)": sizes["q"] * sizes["h"], "(g h)": sizes["g"] * sizes["h"]}
    shapes = {
        f"{path}/{name}": leaf for path, names in parameter_shapes(config).items() for name, leaf in names.items()
    }
    for path in paths_of(config):
        weight, leaf = weight_of(path), shapes[path]
        assert is_quantized(leaf) is (weight.kind in ("matrix", "expert")), path
        shape = leaf.weight.shape if is_quantized(leaf) else leaf.shape
        assert tuple(sizes[axis] for axis in weight.axes) == shape, path
