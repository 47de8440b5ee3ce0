"""Laws of the partition rules and of placement on a mesh (SPEC §7, §9)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

from grok_conformance.reference import LanguageModelConfig, QuantizedWeight8bit, partitioning
from grok_conformance.reference.parameters import parameter_shapes
from grok_conformance.reference.quantization import is_quantized
from tests.properties.drawn import configs

COMPONENTS = st.lists(st.sampled_from(["moe", "linear", "linear_1", "w", "layer_stack", "layer_stack_1"]), max_size=5)
SHARDS = st.sampled_from([(1, 1), (1, 2), (2, 1), (1, 3), (2, 2), (1, 8), (2, 4), (8, 1)])
SPECS = st.sampled_from([P(), P(None), P("data"), P("data", "model"), P(None, ("data", "model"))])


class Attributes(NamedTuple):
    """A container whose keys in a path are attributes, not dict keys."""

    moe: Any


def placed(rules: Any, tree: Any) -> Any:
    """Return the tree with the replacement of every leaf."""
    return jax.tree_util.tree_map_with_path(partitioning.apply_rules(rules), tree, is_leaf=is_quantized)


@given(configs())
def test_exactly_one_published_rule_matches_every_parameter(config: LanguageModelConfig) -> None:
    rules = (*partitioning.LM_PARTITION_RULES, *partitioning.TRANSFORMER_PARTITION_RULES)
    for path, names in parameter_shapes(config).items():
        for name, leaf in names.items():
            found = [spec for patterns, spec in rules if partitioning.match(patterns, [*path.split("/"), name])]
            assert len(found) == 1
            assert len(found[0]) <= len(leaf.shape)


@given(configs(), SHARDS)
def test_every_spec_is_legal_for_its_shape_on_every_mesh(config: LanguageModelConfig, shards: Any) -> None:
    mesh, shapes = partitioning.make_mesh(shards), parameter_shapes(config)
    shardings = partitioning.parameter_shardings(shapes, mesh)
    pairs = zip(jax.tree.leaves(shapes), jax.tree.leaves(shardings), strict=True)
    assert all(fits(sharding, leaf.shape) for leaf, sharding in pairs)


def fits(sharding: Any, shape: tuple[int, ...]) -> bool:
    """Whether every axis of the mesh divides the dimension that it shards."""
    axes = [(entry,) if isinstance(entry, str) else entry or () for entry in sharding.spec]
    sizes = [int(np.prod([sharding.mesh.shape[name] for name in names])) for names in axes]
    return len(sizes) <= len(shape) and all(size % shards == 0 for size, shards in zip(shape, sizes, strict=False))


@given(SHARDS, st.integers(1, 2), st.sampled_from([1, 2, 8]), st.integers(0, 2**32 - 1))
def test_a_row_parallel_weight_comes_back_from_its_shards(shards: Any, rows: int, num_groups: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    weight = random.integers(-128, 128, (24 * rows, 8)).astype(np.int8)
    quantized = QuantizedWeight8bit(weight, random.standard_normal((num_groups, 8)).astype(np.float32))
    params: Any = {"transformer/decoder_layer_0/multi_head_attention/linear": {"w": quantized}}
    mesh = partitioning.make_mesh(shards)
    (leaf,) = jax.tree.leaves(
        jax.device_put(params, partitioning.parameter_shardings(params, mesh)), is_leaf=is_quantized
    )
    assert np.array_equal(np.asarray(leaf.scales), quantized.scales)
    held = {shard.device.id: np.asarray(shard.data) for shard in leaf.weight.addressable_shards}
    assert np.array_equal(np.block([[held[device.id] for device in row] for row in mesh.devices.T]), weight)


@given(COMPONENTS, COMPONENTS)
def test_plain_patterns_match_where_they_occur_in_a_row(patterns: list[str], components: list[str]) -> None:
    starts = range(len(components) - len(patterns) + 1)
    occurs = any(components[i : i + len(patterns)] == patterns for i in starts) and bool(patterns)
    assert partitioning.match(patterns, components) is occurs


@given(COMPONENTS, COMPONENTS, COMPONENTS)
def test_a_window_matches_whatever_surrounds_it(before: list[str], window: list[str], after: list[str]) -> None:
    assert partitioning.match(window, [*before, *window, *after]) is bool(window)


@given(st.sampled_from(["linear", "moe"]), st.text("abw_1", min_size=1, max_size=2))
def test_a_pattern_matches_the_whole_of_a_component(component: str, more: str) -> None:
    assert partitioning.match([component], [component])
    assert not partitioning.match([component], [component + more])
    assert not partitioning.match([component], [more + component])


@given(COMPONENTS, SPECS)
def test_only_a_component_named_layer_stack_prepends_an_axis(components: list[str], spec: P) -> None:
    found = placed([(("w",), spec)], {"/".join([*components, "w"]): 0})
    stacked = "layer_stack" in components
    assert list(found.values()) == [P(None, *spec) if stacked else spec]


@given(COMPONENTS, SPECS)
def test_what_no_rule_matches_is_none_and_only_dict_keys_count(components: list[str], spec: P) -> None:
    rules = [(("moe", "w"), spec), (("elsewhere",), spec), (("0",), spec)]
    tree = {"/".join(component for component in components if component != "w") or "x": Attributes(moe=[{"w": 0}])}
    (found,) = placed(rules, tree).values()
    expected = None if not components or [c for c in components if c != "w"][-1:] != ["moe"] else spec
    stacked = expected is not None and "layer_stack" in components
    assert found.moe == [{"w": P(None, *spec) if stacked else expected}]


@given(st.permutations([P("data"), P("model"), P(None, "data")]))
def test_the_first_rule_that_matches_wins(specs: list[P]) -> None:
    assert placed([(("w",), spec) for spec in specs], {"moe": {"w": 0}}) == {"moe": {"w": specs[0]}}
