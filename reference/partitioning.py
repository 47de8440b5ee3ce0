"""Where parameters and activations lie on a mesh of devices (SPEC §7)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from grok_conformance.reference.config import LanguageModelConfig, TransformerConfig
from grok_conformance.reference.parameters import Params, parameter_shapes
from grok_conformance.reference.quantization import QuantizedWeight8bit, is_quantized

Rules = list[tuple[tuple[str, ...], Any]]

Axis = str | tuple[str, ...]
"""The name of a mesh axis, or of several that divide a dimension together."""

AnyMesh = Mesh | jax.sharding.AbstractMesh

DECODER_LAYER = "decoder_layer_[0-9]+"
QUERY_KEY_VALUE = "(query|key|value)"


def _norm_rules(module: str) -> Rules:
    layer_norms = [
        ((module, norm, name), P(None)) for norm in ("layer_norm", "layer_norm_1") for name in ("offset", "scale")
    ]
    norms = ("rms_norm", "rms_norm_1", "rms_norm_2", "rms_norm_3")
    return [*layer_norms, *(((module, norm, "scale"), P(None)) for norm in norms)]


TRANSFORMER_PARTITION_RULES: Rules = [
    (("multi_head_attention", QUERY_KEY_VALUE, "w"), P("data", "model")),
    (("multi_head_attention", QUERY_KEY_VALUE, "b"), P(None)),
    (("multi_head_attention", "linear", "w"), P("model", "data")),
    (("multi_head_attention", "linear", "b"), P(None)),
    ((DECODER_LAYER, "linear", "w"), P("data", "model")),
    ((DECODER_LAYER, "linear", "b"), P(None)),
    ((DECODER_LAYER, "linear_v", "w"), P("data", "model")),
    ((DECODER_LAYER, "linear_v", "b"), P(None)),
    ((DECODER_LAYER, "linear_1", "w"), P("model", "data")),
    ((DECODER_LAYER, "linear_1", "b"), P(None)),
    *_norm_rules(DECODER_LAYER),
    (("router", "w"), P("data")),
    (("moe", "linear", "w"), P(None, "data", "model")),
    (("moe", "linear", "b"), P(None)),
    (("moe", "linear_v", "w"), P(None, "data", "model")),
    (("moe", "linear_v", "b"), P(None)),
    (("moe", "linear_1", "w"), P(None, "model", "data")),
    (("moe", "linear_1", "b"), P(None)),
    *_norm_rules("moe"),
]
"""The published rules of the decoder, the first match winning (SPEC §7)."""

LM_PARTITION_RULES: Rules = [
    (("language_model", "positional_embeddings"), P(None, ("data", "model"))),
    (("language_model", "in_out_embed", "embeddings"), P(None, ("data", "model"))),
    (("language_model", "rms_norm"), P(None)),
]
"""The published rules of what surrounds the decoder; a model's rules are these, then the decoder's (SPEC §7)."""


def match(qs: Sequence[str], ks: Sequence[str]) -> bool:
    """Whether the patterns qs match some window of consecutive path components ks, one each (SPEC §7).

    Published behaviour, kept (SPEC §9): a pattern matches from the component's start, and "$" is appended to it as
    text, so an alternation without parentheses is anchored at the end on its last branch only. A window may end before
    the path does. No patterns match nothing.
    """
    anchored = [re.compile(pattern + "$") for pattern in qs]
    windows = (ks[i : i + len(anchored)] for i in range(len(ks) - len(anchored) + 1))
    return bool(anchored) and any(
        all(pattern.match(component) for pattern, component in zip(anchored, window, strict=True)) for window in windows
    )


def apply_rules(rules: Rules) -> Callable[[tuple[Any, ...], Any], Any]:
    """Return _apply_rules(path, value), for `tree_map_with_path`: the replacement of the first rule that matches.

    Only dict keys of the path count, split at "/". None if no rule matches: the value is replicated. A component
    `layer_stack` prepends None to a PartitionSpec (SPEC §7).
    Published behaviour, kept (SPEC §9): `layer_stack` must be one exact path component.
    """

    def _apply_rules(path: tuple[Any, ...], value: Any) -> Any:
        del value
        keys = (str(entry.key) for entry in path if isinstance(entry, jax.tree_util.DictKey))
        components = [component for key in keys for component in key.split("/")]
        replacement = next((spec for patterns, spec in rules if match(patterns, components)), None)
        if isinstance(replacement, P) and "layer_stack" in components:
            return P(None, *replacement)
        return replacement

    return _apply_rules


def partition_specs(config: LanguageModelConfig) -> dict[str, P | None]:
    """Return `{"module_path/name": PartitionSpec}` of every parameter (SPEC §7); allocates nothing."""
    specs = _spec_tree(parameter_shapes(config))
    return {f"{path}/{name}": spec for path, names in specs.items() for name, spec in names.items()}


def parameter_shardings(params: Params, mesh: Mesh) -> dict[str, dict[str, Any]]:
    """Return the tree of params with a NamedSharding in the place of every array, as `jax.device_put` takes it.

    A weight's scales follow the weight. Axes that the mesh does not divide stay whole, and so do the published
    groups of scales on a mesh that has another number of model shards (SPEC §3, §7).
    """

    def shard(leaf: Any, spec: P | None) -> Any:
        if is_quantized(leaf):
            return QuantizedWeight8bit(shard(leaf.weight, spec), shard(leaf.scales, spec))
        return NamedSharding(mesh, fitting(spec or P(), leaf.shape, mesh))

    specs = _spec_tree(params)
    return {
        path: {name: shard(leaf, specs[path][name]) for name, leaf in names.items()} for path, names in params.items()
    }


def fitting(spec: P, shape: Sequence[int], mesh: AnyMesh) -> P:
    """Return the spec without the mesh axes that do not divide their dimension of `shape`."""
    sizes = zip(spec, shape, strict=False)
    return P(*(None if size % num_shards(axes or (), mesh) else axes for axes, size in sizes))


def num_shards(axes: Axis, mesh: AnyMesh) -> int:
    """Return into how many shards these axes of the mesh divide a dimension."""
    return math.prod(mesh.shape[axis] for axis in ((axes,) if isinstance(axes, str) else axes))


def make_mesh(local: tuple[int, int], between_hosts: tuple[int, int] = (1, 1)) -> Mesh:
    """Return the mesh ("data", "model") of local × between_hosts shards (SPEC §7).

    Each host contributes its first data·model devices. Raises ValueError if there are too few hosts or devices.
    """
    num_local, num_hosts = math.prod(local), math.prod(between_hosts)
    hosts = [
        [device for device in jax.devices() if device.process_index == process]
        for process in range(jax.process_count())
    ]
    available = min(len(devices) for devices in hosts)
    if len(hosts) < num_hosts or available < num_local:
        raise ValueError(
            f"mesh {local} between hosts {between_hosts} needs {num_local} devices on each of {num_hosts} hosts, but"
            f" there are {available} on {len(hosts)}: ask for a smaller mesh, or for virtual CPU devices with"
            f" XLA_FLAGS=--xla_force_host_platform_device_count={num_local}"
        )
    devices = np.array([devices[:num_local] for devices in hosts[:num_hosts]]).reshape(*between_hosts, *local)
    data, model = (outer * inner for outer, inner in zip(between_hosts, local, strict=True))
    return Mesh(devices.transpose(0, 2, 1, 3).reshape(data, model), ("data", "model"))


def check_mesh(model: TransformerConfig, mesh: Mesh) -> None:
    """Raise ValueError if the mesh does not divide the sizes that it must: each shard computes whole heads.

    KV heads are not among them: heads that do not divide the model axis are replicated (SPEC §9).
    """
    num_data, num_model = mesh.shape["data"], mesh.shape["model"]
    required = (
        ("num_q_heads", model.num_q_heads, num_model),
        ("ffn_size", model.ffn_size, num_model),
        ("emb_size", model.emb_size, num_data * num_model),
    )
    for name, size, num_shards in required:
        if size % num_shards:
            raise ValueError(
                f"mesh ({num_data}, {num_model}) does not fit: {name} {size} does not divide into {num_shards} shards;"
                " choose a mesh that divides it"
            )


def num_model_shards() -> int:
    """Return the size of the model axis of the mesh in context, 1 where there is none."""
    return int(jax.sharding.get_abstract_mesh().shape.get("model", 1))


def mesh_in_use(given: Mesh | None = None) -> AnyMesh:
    """Return the mesh given, or else the one in context (`jax.set_mesh`), which is empty where there is none."""
    return jax.sharding.get_abstract_mesh() if given is None else given


def with_sharding_constraint(x: jax.Array, constraint: P) -> jax.Array:
    """Return x constrained to a spec on the mesh in context; unchanged where there is none.

    Dimensions that the mesh does not divide stay whole.
    """
    return constrained(x, constraint, mesh_in_use())


def constrained(x: jax.Array, constraint: P, mesh: AnyMesh) -> jax.Array:
    """Return x constrained to a spec on a mesh, as `with_sharding_constraint` does; unchanged if the mesh is empty."""
    if mesh.empty:
        return x
    placed: jax.Array = jax.lax.with_sharding_constraint(x, NamedSharding(mesh, fitting(constraint, x.shape, mesh)))
    return placed


def activation_spec(data_axis: Axis, model_axis: Axis, *, shard_activations: bool) -> P:
    """Return where activations [b, t, d] lie: rows over `data_axis`, and d over `model_axis` if they are sharded."""
    return P(data_axis, None, model_axis if shard_activations else None)


def cast_bfloat16(x: jax.Array) -> jax.Array:
    """Return a floating-point array in bfloat16, and any other unchanged."""
    return x.astype(jnp.bfloat16) if jnp.issubdtype(x.dtype, jnp.floating) else x


def _spec_tree(params: Params) -> Any:
    rules = [*LM_PARTITION_RULES, *TRANSFORMER_PARTITION_RULES]
    return jax.tree_util.tree_map_with_path(apply_rules(rules), params, is_leaf=is_quantized)
