"""Float checkpoints become 8-bit ones while they are read (SPEC §3, §8)."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np
import pytest

from grok_conformance.reference import QuantizedWeight8bit, TrainingState, checkpoint, make_mesh, quantize
from grok_conformance.reference.checkpoint import CheckpointError, quantizing
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.parameters import Params, parameter_shapes, quantize_params
from grok_conformance.reference.partitioning import partition_specs
from grok_conformance.reference.quantization import is_quantized
from tests.reference.checkpoint.tiny_checkpoints import ONE_LAYER, all_bits, random_params

G = 4


def float_params(dtype: Any = np.float32) -> Params:
    random = np.random.default_rng(4)

    def leaf(expected: Any) -> Any:
        stored = dtype if is_quantized(expected) else np.float32
        return random.standard_normal(expected.shape).astype(stored)

    params: Params = jax.tree.map(leaf, parameter_shapes(ONE_LAYER), is_leaf=is_quantized)
    return params


@pytest.mark.parametrize("block_bytes", [1, 1 << 10, 1 << 22])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_what_is_loaded_is_quantised_as_the_whole_weight_would_be(
    dtype: Any, block_bytes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = float_params(dtype)
    checkpoint.save(tmp_path, ONE_LAYER, params)
    monkeypatch.setattr(quantizing, "QUANTIZED_BYTES", block_bytes)
    loaded = checkpoint.load(tmp_path, ONE_LAYER, quantize=G)
    assert all_bits(loaded) == all_bits(quantize_params(ONE_LAYER, params, G))
    assert checkpoint.load(tmp_path, ONE_LAYER)["transformer/decoder_layer_0/moe/linear"]["w"].dtype == dtype


@pytest.mark.parametrize("mesh", [(1, 8), (2, 4)])
def test_quantised_weights_lie_where_the_partition_rules_place_them(mesh: tuple[int, int], tmp_path: Path) -> None:
    params = float_params()
    checkpoint.save(tmp_path, ONE_LAYER, params)
    loaded = checkpoint.load(tmp_path, ONE_LAYER, make_mesh(mesh), quantize=G)
    assert all_bits(loaded) == all_bits(quantize_params(ONE_LAYER, params, G))
    specs = partition_specs(ONE_LAYER)
    found = {
        f"{module}/{name}": leaf for module, name, leaf in in_file_order(TrainingState(loaded)) if is_quantized(leaf)
    }
    assert len(found) == 7
    assert all(leaf.weight.sharding.spec == specs[path] for path, leaf in found.items())


def test_the_laws_of_quantisation_hold_on_what_is_loaded(tmp_path: Path) -> None:
    params = float_params()
    checkpoint.save(tmp_path, ONE_LAYER, params)
    for module, names in checkpoint.load(tmp_path, ONE_LAYER, quantize=G).items():
        leaf = names.get("w")
        if isinstance(leaf, QuantizedWeight8bit):
            groups = leaf.scales.shape[-2]
            assert groups == (G if module.endswith(("linear_1", "multi_head_attention/linear")) else 1)
            scales = np.repeat(leaf.scales.astype(np.float64), leaf.shape[-2] // groups, axis=-2)
            error = np.abs(leaf.weight * scales - params[module]["w"])
            assert np.all(error <= scales / 2 + np.where(np.abs(leaf.weight) == 127, scales, 0))
            again = quantize(leaf.weight * scales, groups, np.float32)
            reaches = np.abs(leaf.weight).reshape(*leaf.shape[:-2], groups, -1, leaf.shape[-1]).max(axis=-2) == 127
            assert np.all((again.scales == leaf.scales.astype(np.float32))[reaches])


def test_what_is_quantised_already_stays_as_it_is(tmp_path: Path) -> None:
    params = random_params(ONE_LAYER)
    checkpoint.save(tmp_path, ONE_LAYER, params)
    assert all_bits(checkpoint.load(tmp_path, ONE_LAYER, quantize=G)) == all_bits(params)


def test_no_more_of_the_float_weight_than_blocks_is_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = replace(ONE_LAYER, model=replace(ONE_LAYER.model, emb_size=160, widening_factor=12))
    shapes: Any = parameter_shapes(config)
    params: Params = jax.tree.map(lambda x: np.ones(x.shape, np.float32), shapes, is_leaf=is_quantized)
    largest = max(leaf.nbytes for leaf in jax.tree.leaves(params))
    checkpoint.save(tmp_path, config, params)
    del params
    monkeypatch.setattr(quantizing, "QUANTIZED_BYTES", 1 << 12)
    tracemalloc.start()
    try:
        loaded = checkpoint.load(tmp_path, config, quantize=G)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    stored = sum(leaf.nbytes for leaf in jax.tree.leaves(loaded))
    assert largest > 4_000_000
    assert peak < stored + largest / 4


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_an_error_that_names_its_place(value: float, tmp_path: Path) -> None:
    params = float_params()
    params["transformer/decoder_layer_0/moe/linear_1"]["w"][2, 40, 7] = value
    checkpoint.save(tmp_path, ONE_LAYER, params)
    group = 2 * G + 40 // (ONE_LAYER.model.ffn_size // G)
    with pytest.raises(CheckpointError, match=rf"moe/linear_1/w: a value in column 7 of group {group} is not finite"):
        checkpoint.load(tmp_path, ONE_LAYER, quantize=G)


def test_rows_that_do_not_divide_into_the_groups_are_refused_before_anything_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, ONE_LAYER, float_params())
    monkeypatch.setattr(quantizing, "read_exactly", None)
    with pytest.raises(CheckpointError, match="128 rows do not divide into 7 groups of scales"):
        checkpoint.load(tmp_path, ONE_LAYER, quantize=7)


def test_a_weight_stored_by_columns_is_quantised_too(tmp_path: Path) -> None:
    import pickle  # noqa: PLC0415 - writes the one file

    params = float_params()
    folder = checkpoint.save(tmp_path, ONE_LAYER, params)
    (folder / "index.json").unlink()
    (path,) = [p for p in folder.glob("tensor*") if p.stat().st_size > 4 * 5 * 48 * 128][:1]
    names = [f"{module}/{name}" for module, name, _ in in_file_order(TrainingState(params))]
    module, _, name = names[int(path.name[6:11])].rpartition("/")
    path.write_bytes(pickle.dumps(np.asfortranarray(params[module][name]), protocol=4))
    loaded = checkpoint.load(tmp_path, ONE_LAYER, quantize=G)
    assert all_bits(loaded) == all_bits(quantize_params(ONE_LAYER, params, G))
