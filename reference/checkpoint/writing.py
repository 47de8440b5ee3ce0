"""Checkpoints in the published format, with an index, written whole or not at all (SPEC §8)."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from grok_conformance.reference.checkpoint.encoding import encode
from grok_conformance.reference.checkpoint.index import INDEX_NAME, IndexEntry, file_name, sample_digest, write_index
from grok_conformance.reference.checkpoint.layout import DIRECTORY_NAME, check_names, check_type, in_file_order
from grok_conformance.reference.checkpoint.pickles import Array, CheckpointError
from grok_conformance.reference.config import LanguageModelConfig
from grok_conformance.reference.parameters import Params, TrainingState, parameter_shapes
from grok_conformance.reference.quantization import is_quantized

Leaf = tuple[Array, Array | None]
"""A parameter in memory: the weight, and its scales if it is quantised."""

CHUNK_BYTES = 1 << 25


@dataclass(frozen=True)
class LeafSource:
    """A parameter to be written. Sources of the same `content` share one file by hard links; `make` is called once."""

    parameter: str
    content: str
    make: Callable[[], Leaf]


def save(directory: Path | str, config: LanguageModelConfig, params: Params) -> Path:
    """Write the parameters as `directory/ckpt-0`, with an index, and return that folder (SPEC §8).

    The arrays are NumPy or JAX arrays, on any mesh that this process sees whole; one leaf at a time comes to the host.
    Raises CheckpointError, and writes nothing, if a checkpoint is there already, if a parameter is missing or unknown,
    or if its dtype or shape contradicts the configuration.
    """
    expected = {
        f"{module}/{name}": leaf for module, name, leaf in in_file_order(TrainingState(parameter_shapes(config)))
    }
    found = {f"{module}/{name}": _split(leaf) for module, name, leaf in in_file_order(TrainingState(params))}
    check_names(str(directory), expected.keys(), found.keys())
    for parameter, (weight, scales) in found.items():
        check_type(parameter, expected[parameter], weight, scales)
    sources = [LeafSource(parameter, parameter, partial(_to_host, *leaf)) for parameter, leaf in found.items()]
    return write(Path(directory), sources)


def write(directory: Path, sources: Sequence[LeafSource], progress: Callable[[int], object] | None = None) -> Path:
    """Write the leaves, given in file order, as `directory/ckpt-0`, and return that folder.

    The folder appears under its name when it is complete and on the disk. `progress` is told of bytes as they are
    written. Raises CheckpointError, and leaves nothing behind, if the folder exists or cannot be written.
    """
    folder = directory if directory.name == DIRECTORY_NAME else directory / DIRECTORY_NAME
    unfinished = folder.with_name(f".{DIRECTORY_NAME}.unfinished-{os.getpid()}")
    if folder.exists():
        raise CheckpointError(f"{folder}: exists already and is never overwritten; choose another directory")
    try:
        unfinished.mkdir(parents=True)
        try:
            write_index(unfinished, list(_write_leaves(unfinished, sources, progress or (lambda _: None))))
            for path in (unfinished / INDEX_NAME, unfinished):
                _sync(path)
            unfinished.rename(folder)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    except OSError as error:
        raise CheckpointError(f"{folder}: {error.strerror}; nothing was written") from error
    return folder


def _write_leaves(
    folder: Path, sources: Sequence[LeafSource], progress: Callable[[int], object]
) -> Iterator[IndexEntry]:
    written: dict[str, IndexEntry] = {}
    for position, source in enumerate(sources):
        path = folder / file_name(position)
        twin = written.get(source.content)
        if twin is not None:
            path.hardlink_to(folder / twin.file)
            yield replace(twin, file=path.name, parameter=source.parameter)
            continue
        weight, scales = source.make()
        digest = _write_file(path, encode(weight, scales), progress)
        entry = IndexEntry(
            file=path.name,
            parameter=source.parameter,
            dtype=str(weight.dtype),
            shape=weight.shape,
            scales_dtype=None if scales is None else str(scales.dtype),
            scales_shape=None if scales is None else scales.shape,
            sample_sha256=sample_digest(path),
            sha256=digest,
        )
        written[source.content] = entry
        yield entry


def _write_file(path: Path, pieces: Iterable[bytes | memoryview], progress: Callable[[int], object]) -> str:
    """Write the pieces to a new file and to the disk; return their sha256, taken while the bytes are written."""
    digest = hashlib.sha256()
    with path.open("xb") as file, ThreadPoolExecutor(1) as thread:
        for piece in pieces:
            data = memoryview(piece)
            for start in range(0, data.nbytes, CHUNK_BYTES):
                chunk = data[start : start + CHUNK_BYTES]
                hashed = thread.submit(digest.update, chunk)
                file.write(chunk)
                hashed.result()
                progress(chunk.nbytes)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _split(leaf: Any) -> tuple[Any, Any]:
    return (leaf.weight, leaf.scales) if is_quantized(leaf) else (leaf, None)


def _to_host(weight: Any, scales: Any) -> Leaf:
    return np.asarray(weight), None if scales is None else np.asarray(scales)
