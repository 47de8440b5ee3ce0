from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding

from grok_conformance import reference
from grok_conformance.reference import QuantizedWeight8bit, checkpoint
from grok_conformance.reference.checkpoint import CheckpointError, arrays
from grok_conformance.reference.checkpoint.index import INDEX_NAME
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.checkpoint.pickles import StoredArray, decode
from grok_conformance.reference.parameters import Params, TrainingState
from grok_conformance.reference.partitioning import make_mesh, parameter_shardings, partition_specs
from grok_conformance.reference.quantization import is_quantized
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, DENSE, ONE_LAYER, all_bits, bits, random_params

MESHES = [(1, 1), (1, 2), (1, 8), (2, 4)]
LAYER_10 = "transformer/decoder_layer_10/"


def on(mesh: tuple[int, int] | None) -> jax.sharding.Mesh | None:
    return None if mesh is None else make_mesh(mesh)


@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_what_is_written_is_loaded_bit_for_bit_on_every_mesh(
    mesh: tuple[int, int] | None, written: Path, params: Params
) -> None:
    loaded = checkpoint.load(written, CONFIG, on(mesh))
    assert all_bits(loaded) == all_bits(params)


@pytest.mark.parametrize("num_groups", [1, 4, 16])
@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_any_number_of_groups_is_loaded_bit_for_bit(
    mesh: tuple[int, int] | None, num_groups: int, tmp_path: Path
) -> None:
    params = random_params(DENSE, num_groups=num_groups, scales_dtype=np.dtype(np.float32))
    checkpoint.save(tmp_path, DENSE, params)
    assert all_bits(checkpoint.load(tmp_path, DENSE, on(mesh))) == all_bits(params)


def test_plain_float_weights_are_loaded_bit_for_bit(tmp_path: Path) -> None:
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf.weight, jnp.bfloat16) if is_quantized(leaf) else leaf,
        random_params(ONE_LAYER),
        is_leaf=is_quantized,
    )
    checkpoint.save(tmp_path, ONE_LAYER, params)
    assert all_bits(checkpoint.load(tmp_path, ONE_LAYER, make_mesh((2, 4)))) == all_bits(params)


@pytest.mark.parametrize("mesh", MESHES)
def test_loaded_arrays_are_placed_by_the_partition_rules(mesh: tuple[int, int], written: Path) -> None:
    on_mesh = make_mesh(mesh)
    loaded = checkpoint.load_layer(written, CONFIG, 10, on_mesh)
    jax.tree.map(_assert_placed, loaded, parameter_shardings(loaded, on_mesh))


def _assert_placed(array: jax.Array, sharding: NamedSharding) -> None:
    assert array.sharding == sharding


def test_every_weight_is_split_over_the_mesh_as_its_spec_says(written: Path) -> None:
    loaded = checkpoint.load(written, CONFIG, make_mesh((2, 4)))
    specs = partition_specs(CONFIG)
    quantized = {
        f"{module}/{name}": leaf for module, name, leaf in in_file_order(TrainingState(loaded)) if is_quantized(leaf)
    }
    assert len(quantized) == 7 * 12
    assert all(leaf.weight.sharding.spec == specs[path] for path, leaf in quantized.items())


def test_scale_rows_that_the_mesh_does_not_divide_are_whole_on_every_device(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, DENSE, random_params(DENSE, num_groups=4))
    loaded = checkpoint.load(tmp_path, DENSE, make_mesh((1, 8)))
    leaf = loaded["transformer/decoder_layer_0/linear_1"]["w"]
    assert leaf.weight.sharding.shard_shape(leaf.weight.shape) == (128 // 8, 48)
    assert leaf.scales.sharding.is_fully_replicated


def test_load_layer_gives_one_layer_under_its_full_paths(written: Path, params: Params) -> None:
    loaded = checkpoint.load_layer(written, CONFIG, 1)
    expected = {path: names for path, names in params.items() if path.startswith("transformer/decoder_layer_1/")}
    assert len(expected) == 12
    assert all_bits(loaded) == all_bits(expected)


def test_load_layer_reads_no_other_layer(folder: Path) -> None:
    for path in folder.glob("tensor*"):
        if path.name not in {f"tensor{position:05d}_000" for position in range(26, 38)}:
            path.write_bytes(b"")
    assert LAYER_10 + "router" in checkpoint.load_layer(folder, CONFIG, 10)


@pytest.mark.parametrize("layer", [-1, 12])
def test_layer_that_does_not_exist_is_named(layer: int, written: Path) -> None:
    with pytest.raises(IndexError, match=rf"^layer {layer} does not exist: the config has layers 0 to 11$"):
        checkpoint.load_layer(written, CONFIG, layer)


def test_language_model_is_what_belongs_to_no_layer(written: Path, params: Params) -> None:
    loaded = checkpoint.load_language_model(written, CONFIG)
    assert sorted(loaded) == ["language_model/in_out_embed", "language_model/rms_norm"]
    assert all_bits(loaded) == all_bits({path: params[path] for path in loaded})


def test_layers_and_language_model_are_the_whole(written: Path) -> None:
    parts = [checkpoint.load_language_model(written, CONFIG)]
    parts += [checkpoint.load_layer(written, CONFIG, i) for i in range(12)]
    whole = checkpoint.load(written, CONFIG)
    assert sum(map(len, parts)) == len(whole)
    assert all_bits({path: names for part in parts for path, names in part.items()}) == all_bits(whole)


def test_arrays_without_a_mesh_are_taken_over_by_jax_without_a_copy(written: Path) -> None:
    array = checkpoint.load_layer(written, CONFIG, 0)["transformer/decoder_layer_0/moe/linear"]["w"].weight
    assert jax.device_put(array, jax.devices("cpu")[0]).unsafe_buffer_pointer() == array.ctypes.data


@pytest.mark.parametrize("mesh", MESHES)
def test_shards_on_the_cpu_are_the_memory_that_was_read_into(
    mesh: tuple[int, int], written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: set[int] = set()

    def aligned_empty(shape: Any, dtype: Any) -> Any:
        array = original(shape, dtype)
        taken.add(array.ctypes.data)
        return array

    original = arrays.aligned_empty
    monkeypatch.setattr(arrays, "aligned_empty", aligned_empty)
    loaded = checkpoint.load_layer(written, CONFIG, 0, make_mesh(mesh))
    shards = [shard.data for array in jax.tree.leaves(loaded) for shard in array.addressable_shards]
    assert {shard.unsafe_buffer_pointer() for shard in shards} == taken


@pytest.mark.parametrize("mesh", [None, *MESHES])
def test_column_major_leaf_is_loaded_as_what_it_is(mesh: tuple[int, int] | None, folder: Path, params: Params) -> None:
    (folder / INDEX_NAME).unlink()
    router = params["transformer/decoder_layer_10/router"]["w"]
    path = folder / "tensor00037_000"
    path.write_bytes(pickle.dumps(np.asfortranarray(router), protocol=4))
    assert decode(path).weight.order == "F"
    loaded = checkpoint.load_layer(folder, CONFIG, 10, on(mesh))[LAYER_10 + "router"]["w"]
    assert bits(loaded) == bits(router)


@pytest.mark.parametrize("block_bytes", [1, 500, 5000])
def test_shards_do_not_depend_on_the_blocks_in_which_they_are_read(
    block_bytes: int, written: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(arrays, "BLOCK_BYTES", block_bytes)
    monkeypatch.setattr(arrays, "READ_BYTES", block_bytes)
    loaded = checkpoint.load_layer(written, CONFIG, 10, make_mesh((2, 4)))
    assert all_bits(loaded) == all_bits({path: params[path] for path in loaded})


def test_file_that_shrinks_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tensor00000_000"
    path.write_bytes(bytes(100))
    stored = StoredArray(np.dtype(np.float32), (5, 10), "C", 50)
    with pytest.raises(CheckpointError, match=r"tensor00000_000: truncated while it was read"):
        arrays.read_array(path, stored)


def test_eight_group_scales_give_the_same_logits_wherever_they_are_loaded(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, ONE_LAYER, _finite(random_params(ONE_LAYER)))
    alone, *sharded = [
        _logits(checkpoint.load(tmp_path, ONE_LAYER, on(mesh)), on(mesh)) for mesh in (None, (1, 2), (2, 4))
    ]
    for logits in sharded:
        np.testing.assert_allclose(logits, alone, rtol=0, atol=1e-5 * np.abs(alone).max())


def _logits(params: Params, mesh: jax.sharding.Mesh | None) -> Any:
    output = reference.apply(ONE_LAYER, params, np.arange(1, 7)[None], mesh=mesh)
    assert isinstance(output, reference.LanguageModelOutput)
    return np.asarray(output.logits)  # [b, t, v]


def _finite(params: Params) -> Params:
    def leaf(value: Any) -> Any:
        if is_quantized(value):
            return QuantizedWeight8bit(value.weight, np.abs(np.nan_to_num(value.scales)) / 1000)
        return np.nan_to_num(value)

    finite: Params = jax.tree.map(leaf, params, is_leaf=is_quantized)
    return finite
