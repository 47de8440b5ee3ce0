"""Partition rules, meshes and placement (SPEC §7)."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from grok_conformance.reference import PRESETS, apply_rules, cast_bfloat16, make_mesh, match, with_sharding_constraint
from grok_conformance.reference.parameters import parameter_shapes
from grok_conformance.reference.partitioning import check_mesh, fitting, num_model_shards, parameter_shardings

SMALL = PRESETS["small"]


@pytest.mark.parametrize(
    ("patterns", "components", "expected"),
    [
        (("moe", "linear", "w"), ("transformer", "moe", "linear", "w"), True),
        (("moe", "linear"), ("moe", "linear", "w"), True),  # a window may end before the path does
        (("moe", "w"), ("moe", "linear", "w"), False),  # but has no gaps
        (("linear",), ("linear_1",), False),
        (("decoder_layer_[0-9]+",), ("decoder_layer_12",), True),
        (("inear",), ("linear",), False),  # matched from the start
        (("a|b",), ("ax",), True),  # an alternation without parentheses is anchored on its last branch only
        (("a|b",), ("bx",), False),
        (("(a|b)",), ("ax",), False),
        (("w",), ("w\n",), True),  # as "$" accepts it
        ((), ("w",), False),
        (("w",), (), False),
        (("a", "b"), ("b",), False),
    ],
)
def test_patterns_match_a_window_of_consecutive_components(patterns: Any, components: Any, expected: bool) -> None:  # noqa: FBT001 - the expected value
    assert match(patterns, components) is expected


class Holder(NamedTuple):
    params: Any


def specs(rules: Any, tree: Any) -> Any:
    return jax.tree_util.tree_map_with_path(apply_rules(rules), tree)


def test_the_first_rule_that_matches_wins_and_no_match_is_none() -> None:
    rules = [(("a",), P("data")), (("a", "w"), P("model")), (("b",), P())]
    assert specs(rules, {"x/a": {"w": 0}, "x/c": {"w": 0}}) == {"x/a": {"w": P("data")}, "x/c": {"w": None}}


def test_only_dict_keys_of_the_path_count() -> None:
    state = {"params_0": Holder(params=[{"w": 0}])}
    assert specs([(("params_0", "w"), P("data"))], state) == {"params_0": Holder([{"w": P("data")}])}
    assert specs([(("params",), P("data"))], state) == {"params_0": Holder([{"w": None}])}


@pytest.mark.parametrize(("spec", "stacked"), [(P("data"), P(None, "data")), (P(), P(None)), ("kept", "kept")])
def test_a_layer_stack_prepends_an_axis_to_a_partition_spec(spec: Any, stacked: Any) -> None:
    rules = [(("w",), spec)]
    assert specs(rules, {"layer_stack/a": {"w": 0}}) == {"layer_stack/a": {"w": stacked}}
    assert specs(rules, {"layer_stack_1/a": {"w": 0}}) == {"layer_stack_1/a": {"w": spec}}


def test_a_mesh_takes_the_first_devices_in_order() -> None:
    mesh = make_mesh((2, 3))
    assert mesh.axis_names == ("data", "model")
    assert [device.id for device in mesh.devices.flat] == [0, 1, 2, 3, 4, 5]


def test_a_mesh_between_more_hosts_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="needs 4 devices on each of 2 hosts, but there are 8 on 1"):
        make_mesh((1, 4), (1, 2))


@pytest.mark.parametrize(
    ("shape", "message"), [((1, 5), "num_q_heads 8 does not divide into 5"), ((7, 1), "emb_size 96 does not divide")]
)
def test_a_mesh_that_does_not_divide_the_sizes_is_refused(shape: tuple[int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_mesh(SMALL.model, make_mesh(shape))


def test_axes_that_do_not_divide_a_dimension_leave_it_whole() -> None:
    mesh = make_mesh((2, 4))
    assert fitting(P("data", "model"), (6, 8), mesh) == P("data", "model")
    assert fitting(P("data", "model"), (5, 6), mesh) == P(None, None)
    assert fitting(P(None, ("data", "model")), (3, 16), mesh) == P(None, ("data", "model"))
    assert fitting(P(None, ("data", "model")), (3, 12), mesh) == P(None, None)


def test_scales_lie_where_their_weight_lies_as_far_as_the_mesh_divides_them() -> None:
    mesh = make_mesh((2, 4))
    layer = "transformer/decoder_layer_0"

    def placed(num_groups: int, path: str) -> tuple[P, P]:
        sharding = parameter_shardings(parameter_shapes(SMALL, num_groups=num_groups), mesh)[f"{layer}/{path}"]["w"]
        return sharding.weight.spec, sharding.scales.spec

    assert placed(8, "moe/linear_1") == (P(None, "model", "data"), P(None, "model", "data"))
    assert placed(2, "moe/linear_1") == (P(None, "model", "data"), P(None, None, "data"))
    assert placed(8, "moe/linear") == (P(None, "data", "model"), P(None, None, "model"))
    assert placed(8, "multi_head_attention/key") == (P("data", "model"), P(None, "model"))


def test_a_constraint_without_a_mesh_returns_the_array_itself() -> None:
    x = jnp.ones((4, 8))
    assert with_sharding_constraint(x, P("data", "model")) is x
    assert num_model_shards() == 1


def test_a_constraint_on_a_mesh_places_the_array() -> None:
    with jax.set_mesh(make_mesh((2, 4))):
        x = jax.jit(lambda x: with_sharding_constraint(x, P("data", "model")))(jnp.ones((4, 8)))
        assert num_model_shards() == 4
    assert x.sharding.shard_shape(x.shape) == (2, 2)


@pytest.mark.parametrize(
    ("dtype", "expected"), [(np.float32, jnp.bfloat16), (np.float16, jnp.bfloat16), (np.int8, np.int8)]
)
def test_cast_bfloat16_casts_floating_point_arrays_only(dtype: Any, expected: Any) -> None:
    assert cast_bfloat16(jnp.ones(3, dtype)).dtype == expected
