from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest
import safetensors.flax

from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint import CheckpointError
from grok_conformance.reference.checkpoint.convert import from_safetensors, to_safetensors
from grok_conformance.reference.checkpoint.layout import in_file_order
from grok_conformance.reference.parameters import Params, TrainingState
from grok_conformance.reference.quantization import is_quantized
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, ONE_LAYER, all_bits, bits, random_params


@pytest.fixture
def converted(tmp_path: Path) -> Path:
    checkpoint.save(tmp_path / "source", ONE_LAYER, random_params(ONE_LAYER))
    path = tmp_path / "model.safetensors"
    to_safetensors(tmp_path / "source", ONE_LAYER, path)
    return path


def with_header(path: Path, change: Any) -> None:
    """Rewrite the file with `change` applied to its parsed header."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def refusal(path: Path, destination: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        from_safetensors(path, ONE_LAYER, destination)
    assert len(str(caught.value).splitlines()) == 1
    assert not destination.exists()
    return str(caught.value)


def test_safetensors_reads_every_parameter_bit_for_bit(written: Path, params: Params, tmp_path: Path) -> None:
    to_safetensors(written, CONFIG, tmp_path / "model.safetensors")
    expected: dict[str, Any] = {}
    for module, name, leaf in in_file_order(TrainingState(params)):
        if is_quantized(leaf):
            expected |= {f"{module}/{name}.weight": leaf.weight, f"{module}/{name}.scales": leaf.scales}
        else:
            expected[f"{module}/{name}"] = leaf
    with safetensors.safe_open(tmp_path / "model.safetensors", "flax") as file:
        assert {key: bits(file.get_tensor(key)) for key in file.keys()} == {  # noqa: SIM118 - it is no mapping
            key: bits(array) for key, array in expected.items()
        }


def test_tensors_start_at_multiples_of_their_elements_size(tmp_path: Path) -> None:
    odd = replace(ONE_LAYER, model=replace(ONE_LAYER.model, emb_size=45, num_q_heads=3, num_kv_heads=3, num_experts=4))
    checkpoint.save(tmp_path, odd, random_params(odd, num_groups=1))
    to_safetensors(tmp_path, odd, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    widths = {"F32": 4, "BF16": 2, "I8": 1}
    for entry in json.loads(content[8 : 8 + length]).values():
        assert (8 + length + entry["data_offsets"][0]) % widths[entry["dtype"]] == 0


def test_there_and_back_gives_the_same_files(converted: Path, tmp_path: Path) -> None:
    folder = from_safetensors(converted, ONE_LAYER, tmp_path / "back")
    source = tmp_path / "source/ckpt-0"
    assert {path.name for path in folder.iterdir()} == {path.name for path in source.iterdir()}
    for path in source.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


def test_file_that_safetensors_wrote_becomes_a_checkpoint(tmp_path: Path) -> None:
    params = random_params(ONE_LAYER)
    tensors: dict[str, jax.Array] = {}
    for module, name, leaf in in_file_order(TrainingState(params)):
        parts = {".weight": leaf.weight, ".scales": leaf.scales} if is_quantized(leaf) else {"": leaf}
        tensors |= {f"{module}/{name}{suffix}": jnp.asarray(array) for suffix, array in parts.items()}
    safetensors.flax.save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "flax"})
    from_safetensors(tmp_path / "model.safetensors", ONE_LAYER, tmp_path)
    assert all_bits(checkpoint.load(tmp_path, ONE_LAYER)) == all_bits(params)


def test_plain_float_weights_are_converted_and_back(tmp_path: Path) -> None:
    params = jax.tree.map(
        lambda leaf: jnp.asarray(leaf.weight, jnp.float32) if is_quantized(leaf) else leaf,
        random_params(ONE_LAYER),
        is_leaf=is_quantized,
    )
    checkpoint.save(tmp_path / "source", ONE_LAYER, params)
    to_safetensors(tmp_path / "source", ONE_LAYER, tmp_path / "model.safetensors")
    from_safetensors(tmp_path / "model.safetensors", ONE_LAYER, tmp_path / "back")
    assert all_bits(checkpoint.load(tmp_path / "back", ONE_LAYER)) == all_bits(params)


def test_existing_file_is_not_overwritten(converted: Path, tmp_path: Path) -> None:
    before = converted.read_bytes()
    with pytest.raises(CheckpointError, match=r"model.safetensors: exists already and is never overwritten"):
        to_safetensors(tmp_path / "source", ONE_LAYER, converted)
    assert converted.read_bytes() == before


def test_conversion_that_fails_leaves_no_file(converted: Path, tmp_path: Path) -> None:
    router = tmp_path / "source/ckpt-0/tensor00013_000"
    os.truncate(router, router.stat().st_size - 1)
    with pytest.raises(CheckpointError, match="tensor00013_000: truncated"):
        to_safetensors(tmp_path / "source", ONE_LAYER, tmp_path / "second.safetensors")
    assert sorted(path.name for path in tmp_path.iterdir()) == [converted.name, "source"]


def test_destination_in_a_missing_folder_is_named(converted: Path, tmp_path: Path) -> None:
    del converted
    with pytest.raises(CheckpointError, match=r"nowhere/model.safetensors: No such file or directory"):
        to_safetensors(tmp_path / "source", ONE_LAYER, tmp_path / "nowhere/model.safetensors")


ROUTER = "transformer/decoder_layer_0/router/w"
LINEAR = "transformer/decoder_layer_0/moe/linear/w"


OUTSIDE = f"'{ROUTER}' lies outside of the file or takes other bytes"
NO_HEADER = "not a safetensors file ({}Error in its header)"
WRONG_HEADERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "no router": (lambda header: header.pop(ROUTER), f"lacks '{ROUTER}'"),
    "no scales": (lambda header: header.pop(f"{LINEAR}.scales"), f"lacks '{LINEAR}.scales'"),
    "no weight": (lambda header: header.pop(f"{LINEAR}.weight"), f"lacks '{LINEAR}'"),
    "one more": (lambda header: header.update(more=header[ROUTER]), "has 'more', no parameter of the config"),
    "float64": (lambda header: header[ROUTER].update(dtype="F64"), f"'{ROUTER}' has dtype 'F64', not one of"),
    "dtype no string": (lambda header: header[ROUTER].update(dtype=[]), NO_HEADER.format("Type")),
    "turned": (lambda header: header[ROUTER].update(shape=[5, 48]), f"{ROUTER}: found float32 [5, 48], expected"),
    "too long": (lambda header: header[ROUTER].update(shape=[48, 6]), OUTSIDE),
    "negative lengths": (lambda header: header[ROUTER].update(shape=[-48, -5]), OUTSIDE),
    "behind the end": (lambda header: header[ROUTER].update(data_offsets=[1 << 60, (1 << 60) + 960]), OUTSIDE),
    "before the start": (lambda header: header[ROUTER].update(data_offsets=[-960, 0]), OUTSIDE),
    "no end": (lambda header: header[ROUTER].update(data_offsets=[0]), NO_HEADER.format("Value")),
    "no entry": (lambda header: header.update({ROUTER: None}), NO_HEADER.format("Type")),
}


@pytest.mark.parametrize("wrong", WRONG_HEADERS)
def test_wrong_safetensors_header_is_refused(wrong: str, converted: Path, tmp_path: Path) -> None:
    change, problem = WRONG_HEADERS[wrong]
    with_header(converted, change)
    assert refusal(converted, tmp_path / "back").startswith(f"{converted}: {problem}")


@pytest.mark.parametrize(
    "content", [b"", b"short", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x02" + bytes(7) + b"{x"]
)
def test_file_that_is_not_safetensors_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    assert refusal(path, tmp_path / "back").startswith(f"{path}: not a safetensors file")


def test_truncated_safetensors_file_is_refused(converted: Path, tmp_path: Path) -> None:
    os.truncate(converted, converted.stat().st_size - 1)
    assert "lies outside of the file" in refusal(converted, tmp_path / "back")
