from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint import CheckpointError
from grok_conformance.reference.checkpoint.index import INDEX_NAME, read_index, sample_digest, verify
from grok_conformance.reference.checkpoint.writing import LeafSource, write
from grok_conformance.reference.partitioning import make_mesh
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, DENSE, ONE_LAYER, all_bits, random_params

NORM = np.ones(3, np.float32)


def sources(*contents: str) -> list[LeafSource]:
    return [LeafSource(f"leaf_{i}", content, lambda: (NORM, None)) for i, content in enumerate(contents)]


@pytest.mark.parametrize("given", ["", "ckpt-0", "not/yet/there"])
def test_checkpoint_is_written_as_ckpt_0(given: str, tmp_path: Path) -> None:
    folder = write(tmp_path / given, sources("a"))
    assert folder == (tmp_path if given == "ckpt-0" else tmp_path / given) / "ckpt-0"
    assert sorted(path.name for path in folder.iterdir()) == [INDEX_NAME, "tensor00000_000"]


def test_index_tells_path_dtype_shape_and_digest_of_every_file(tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, ONE_LAYER, random_params(ONE_LAYER))
    index = json.loads((folder / INDEX_NAME).read_text())
    entry = index["tensors"][3]
    path = folder / "tensor00003_000"
    assert index["format"] == 1
    assert entry == {
        "file": "tensor00003_000",
        "parameter": "transformer/decoder_layer_0/moe/linear_1/w",
        "dtype": "int8",
        "shape": [5, 128, 48],
        "scales_dtype": "bfloat16",
        "scales_shape": [5, 8, 48],
        "sample_sha256": sample_digest(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def test_flipped_bit_anywhere_is_found_by_verify(tmp_path: Path) -> None:
    large = np.zeros(1 << 20, np.float32)
    folder = write(tmp_path, [LeafSource("large", "large", lambda: (large, None))])
    index = read_index(folder)
    assert index is not None
    verify(folder, index)
    path = folder / "tensor00000_000"
    content = bytearray(path.read_bytes())
    content[3_000_000] ^= 4
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tensor00000_000: not the sha256 in index.json"):
        verify(folder, index)


@pytest.mark.parametrize("mesh", [None, (2, 4)])
def test_loaded_checkpoint_is_saved_as_the_same_files(
    mesh: tuple[int, int] | None, written: Path, tmp_path: Path
) -> None:
    loaded = checkpoint.load(written, CONFIG, None if mesh is None else make_mesh(mesh))
    folder = checkpoint.save(tmp_path, CONFIG, loaded)
    for path in written.iterdir():
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("existing", ["folder", "file", "empty folder"])
def test_nothing_is_overwritten(existing: str, tmp_path: Path) -> None:
    folder = tmp_path / "ckpt-0"
    if existing == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
        if existing == "folder":
            (folder / "tensor00000_000").write_text("mine")
    before = sorted((path, path.is_file() and path.read_text()) for path in tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match=r"ckpt-0: exists already and is never overwritten"):
        write(tmp_path, sources("a"))
    assert sorted((path, path.is_file() and path.read_text()) for path in tmp_path.rglob("*")) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, MemoryError])
def test_interrupted_writing_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> Any:
        raise error

    with pytest.raises(error):
        write(tmp_path, [*sources("a", "b"), LeafSource("c", "c", fail)])
    assert list(tmp_path.iterdir()) == []


def test_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(descriptor: int) -> None:
        del descriptor
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(CheckpointError, match=r"ckpt-0: No space left on device; nothing was written$"):
        write(tmp_path, sources("a"))
    assert list(tmp_path.iterdir()) == []


def test_leaves_of_one_content_share_one_file_and_are_made_once(tmp_path: Path) -> None:
    made = []

    def make() -> Any:
        made.append(1)
        return NORM, None

    folder = write(tmp_path, [LeafSource(f"leaf_{i}", "same", make) for i in range(3)])
    assert len(made) == 1
    assert len({path.stat().st_ino for path in folder.glob("tensor*")}) == 1
    index = read_index(folder)
    assert index is not None
    assert [entry.parameter for entry in index] == ["leaf_0", "leaf_1", "leaf_2"]


def test_progress_counts_the_bytes_written(tmp_path: Path) -> None:
    counted: list[int] = []
    folder = write(tmp_path, sources("a", "b", "a"), counted.append)
    assert sum(counted) == 2 * (folder / "tensor00000_000").stat().st_size


def test_missing_parameter_is_named(tmp_path: Path) -> None:
    params = dict(random_params(DENSE))
    del params["transformer/decoder_layer_1/linear_v"]
    with pytest.raises(CheckpointError, match=r"lacks 'transformer/decoder_layer_1/linear_v/w'"):
        checkpoint.save(tmp_path, DENSE, params)
    assert list(tmp_path.iterdir()) == []


def test_unknown_parameter_is_named(tmp_path: Path) -> None:
    params = {**random_params(DENSE), "transformer/decoder_layer_1/router": {"w": NORM}}
    with pytest.raises(
        CheckpointError, match=r"has 'transformer/decoder_layer_1/router/w', no parameter of the config"
    ):
        checkpoint.save(tmp_path, DENSE, params)


def test_parameter_of_another_type_is_named(tmp_path: Path) -> None:
    params = {**random_params(DENSE), "language_model/rms_norm": {"scale": np.ones(48)}}
    with pytest.raises(
        CheckpointError, match=r"^language_model/rms_norm/scale: found float64 \[48\], expected float32"
    ):
        checkpoint.save(tmp_path, DENSE, params)
    assert list(tmp_path.iterdir()) == []


def test_strided_and_column_major_arrays_are_written_by_rows(tmp_path: Path) -> None:
    params = random_params(DENSE)
    turned = jax.tree.map(np.asfortranarray, params)
    checkpoint.save(tmp_path, DENSE, turned)
    assert all_bits(checkpoint.load(tmp_path, DENSE)) == all_bits(params)
