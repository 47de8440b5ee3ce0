"""A checkpoint as one safetensors file, and back, without losing a bit (SPEC §8).

Tensors are named `module_path/name`; a quantised weight is two, `….weight` and `….scales`.
"""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.reference.checkpoint.arrays import read_array
from grok_conformance.reference.checkpoint.layout import check_names, check_type, find_leaves, in_file_order
from grok_conformance.reference.checkpoint.pickles import DTYPES, CheckpointError, StoredArray, StoredLeaf
from grok_conformance.reference.checkpoint.writing import Leaf, LeafSource, write
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.parameters import TrainingState, parameter_shapes

DTYPE_NAMES: Mapping[str, str] = {"I8": "int8", "F32": "float32", "BF16": "bfloat16"}
"""The dtypes by the names that safetensors gives them."""

MAX_HEADER_BYTES = 1 << 24


def to_safetensors(
    directory: Path, config: LanguageModelConfig, destination: Path, progress: Callable[[int], object] | None = None
) -> None:
    """Write the checkpoint in `directory` as a safetensors file, one array at a time in memory.

    `progress` is told of bytes as they are written. Raises CheckpointError as `load` does, and if the destination
    exists or cannot be written; it appears when it is complete.
    """
    tensors: dict[str, tuple[Path, StoredArray]] = {}
    for leaf in find_leaves(directory, config):
        parameter, stored = f"{leaf.module}/{leaf.name}", leaf.stored
        if stored.scales is None:
            tensors[parameter] = leaf.path, stored.weight
        else:
            tensors[f"{parameter}.weight"] = leaf.path, stored.weight
            tensors[f"{parameter}.scales"] = leaf.path, stored.scales
    # Wide elements first, so that every tensor starts at a multiple of the size of its elements.
    keys = sorted(tensors, key=lambda key: (-tensors[key][1].dtype.itemsize, key))
    unfinished = destination.with_name(f".{destination.name}.unfinished-{os.getpid()}")
    if destination.exists():
        raise CheckpointError(f"{destination}: exists already and is never overwritten; choose another name")
    try:
        try:
            with unfinished.open("xb") as file:
                file.write(_header({key: tensors[key][1] for key in keys}))
                for key in keys:
                    array = read_array(*tensors[key])
                    file.write(array.reshape(-1).view(np.uint8).data)
                    if progress:
                        progress(array.nbytes)
                file.flush()
                os.fsync(file.fileno())
            destination.hardlink_to(unfinished)  # unlike a rename, this fails if a file has appeared there
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError as error:
        raise CheckpointError(f"{destination}: {error.strerror}; nothing was written") from error


def from_safetensors(
    source: Path, config: LanguageModelConfig, directory: Path, progress: Callable[[int], object] | None = None
) -> Path:
    """Write a safetensors file as the checkpoint `directory/ckpt-0`, and return that folder.

    Raises CheckpointError, before anything is written, if the file is not safetensors, if a tensor is missing, unknown
    or of another dtype or shape than the configuration's, and as `write` does.
    """
    tensors = _read_header(source)
    sources, keys = [], set()
    for module, name, shapes in in_file_order(TrainingState(parameter_shapes(config))):
        parameter = f"{module}/{name}"
        quantized = f"{parameter}.weight" in tensors
        leaf_keys = [f"{parameter}.weight", f"{parameter}.scales"] if quantized else [parameter]
        check_names(str(source), leaf_keys, tensors.keys() & set(leaf_keys))
        stored = StoredLeaf(tensors[leaf_keys[0]], tensors[leaf_keys[1]] if quantized else None)
        check_type(f"{source}: {parameter}", shapes, stored.weight, stored.scales)
        keys |= set(leaf_keys)
        sources.append(LeafSource(parameter, parameter, partial(_read_leaf, source, stored)))
    check_names(str(source), keys, tensors.keys())
    return write(directory, sources, progress)


def _header(arrays: Mapping[str, StoredArray]) -> bytes:
    names = {name: code for code, name in DTYPE_NAMES.items()}
    entries: dict[str, Any] = {}
    end = 0
    for key, array in arrays.items():
        start, end = end, end + array.num_bytes
        entries[key] = {"dtype": names[array.dtype.name], "shape": array.shape, "data_offsets": [start, end]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def _read_header(source: Path) -> dict[str, StoredArray]:
    try:
        with source.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if length > min(MAX_HEADER_BYTES, size - 8):
                raise CheckpointError(f"{source}: not a safetensors file, or cut short: a header of {length} bytes")
            entries = json.loads(file.read(length))
        entries.pop("__metadata__", None)
        return {key: _stored(source, key, entry, 8 + length, size) for key, entry in entries.items()}
    except OSError as error:
        raise CheckpointError(f"{source}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{source}: not a safetensors file ({type(error).__name__} in its header)") from error


def _stored(source: Path, key: str, entry: Mapping[str, Any], data_start: int, size: int) -> StoredArray:
    start, end = entry["data_offsets"]
    code, shape = entry["dtype"], tuple(entry["shape"])
    if code not in DTYPE_NAMES:
        raise CheckpointError(f"{source}: {key!r:.120} has dtype {code!r:.20}, not one of {', '.join(DTYPE_NAMES)}")
    lengths_valid = all(type(length) is int and length >= 0 for length in (*shape, start, end))
    array = StoredArray(DTYPES[DTYPE_NAMES[code]], shape, "C", data_start + start)
    if not lengths_valid or math.prod(shape) * array.dtype.itemsize != end - start or data_start + end > size:
        raise CheckpointError(f"{source}: {key!r:.120} lies outside of the file or takes other bytes")
    return array


def _read_leaf(source: Path, stored: StoredLeaf) -> Leaf:
    return read_array(source, stored.weight), None if stored.scales is None else read_array(source, stored.scales)
