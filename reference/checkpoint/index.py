"""The names of a checkpoint's files, and the index that our writer adds to them (SPEC §8).

The published checkpoint has no index: files in a wrong order then go unnoticed where their types agree.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from grok_conformance.reference.checkpoint.pickles import CheckpointError

INDEX_NAME = "index.json"
FORMAT = 1
MAX_INDEX_BYTES = 1 << 24

BLOCK_BYTES = 4096
NUM_BLOCKS = 16


@dataclass(frozen=True)
class IndexEntry:
    """One file: the parameter in it, the dtype and shape of weight and scales, and two digests (hexadecimal).

    `sample_sha256` covers a few blocks of the file: checked on every load, it tells files apart at no cost.
    `sha256` covers the whole file and finds a single flipped bit.
    """

    file: str
    parameter: str
    dtype: str
    shape: Sequence[int]
    scales_dtype: str | None
    scales_shape: Sequence[int] | None
    sample_sha256: str
    sha256: str


def file_name(position: int) -> str:
    """Return the name of the file of the leaf at this position in the order of the tree (SPEC §8)."""
    return f"tensor{position:05d}_000"


def sample_digest(path: Path) -> str:
    """Return the sha256 of 16 blocks of 4 KiB spread evenly over the file, of a file up to 64 KiB of all of it."""
    with path.open("rb", buffering=0) as file:
        last_start = max(os.fstat(file.fileno()).st_size - BLOCK_BYTES, 0)
        digest = hashlib.sha256()
        for block in range(NUM_BLOCKS):
            digest.update(os.pread(file.fileno(), BLOCK_BYTES, last_start * block // (NUM_BLOCKS - 1)))
    return digest.hexdigest()


def write_index(folder: Path, entries: Sequence[IndexEntry]) -> None:
    """Write the index of a folder of tensor files."""
    (folder / INDEX_NAME).write_bytes(_render(entries))


def _render(entries: Sequence[IndexEntry]) -> bytes:
    """Return the bytes of an index: there is one way to write it, and its own digest vouches for the entries."""
    tensors = [asdict(entry) for entry in entries]
    digest = hashlib.sha256(json.dumps(tensors).encode()).hexdigest()
    return (json.dumps({"format": FORMAT, "sha256": digest, "tensors": tensors}, indent=1) + "\n").encode()


def read_index(folder: Path) -> tuple[IndexEntry, ...] | None:
    """Return the index of a folder of tensor files, entry by entry in file order; None if there is none.

    Raises CheckpointError if it is of another format or not one of ours.
    """
    path = folder / INDEX_NAME
    if not path.exists():
        return None
    fix = "restore it, or remove it to read the files in string order"
    try:
        if path.stat().st_size > MAX_INDEX_BYTES:
            raise CheckpointError(f"{path}: larger than {MAX_INDEX_BYTES} bytes; {fix}")
        text = path.read_bytes()
        document = json.loads(text)
        if document["format"] != FORMAT:
            raise CheckpointError(f"{path}: format {document['format']!r:.40}, expected {FORMAT}; {fix}")
        entries = tuple(IndexEntry(**entry) for entry in document["tensors"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{path}: not an index of a checkpoint ({type(error).__name__}); {fix}") from error
    for position, entry in enumerate(entries):
        if entry.file != file_name(position):
            raise CheckpointError(
                f"{path}: entry {position} is about {entry.file!r:.40}, expected {file_name(position)}; {fix}"
            )
    if text != _render(entries):
        raise CheckpointError(f"{path}: altered: its entries have not the sha256 that it gives; {fix}")
    return entries


def verify(folder: Path, entries: Sequence[IndexEntry]) -> None:
    """Read every file whole; raise CheckpointError, naming the file, if its digest is not the one in the index."""
    for entry in entries:
        with (folder / entry.file).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != entry.sha256:
            raise CheckpointError(f"{folder / entry.file}: not the sha256 in {INDEX_NAME}; copy the file again")
