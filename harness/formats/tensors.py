"""Tensor files: the safetensors format, opened after every check, written deterministically.

A file is an 8-byte little-endian header length, a JSON header `{name: {dtype, shape, data_offsets}}`, and the raw
little-endian tensors without holes. This module needs NumPy alone, keeps bfloat16 bit for bit, and writes no metadata,
so that equal tensors give equal bytes.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from grok_conformance.harness.contract import Array
from grok_conformance.harness.formats.files import FileError, parse_json, whole_file
from grok_conformance.harness.formats.on_disk import BytesOnDisk, stamp_of

STORED_DTYPES: Mapping[str, np.dtype[Any]] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype("<i8"),
    "I32": np.dtype("<i4"),
    "I8": np.dtype(np.int8),
    "BOOL": np.dtype(np.bool_),
}
"""The dtypes of a tensor file. F64 and I64 are no tap's dtype; they are kept so that a check can name them."""

LENGTH_BYTES = 8
MAX_HEADER_BYTES = 16 * 2**20
MAX_TENSOR_BYTES = 2**62
MAX_READ_BYTES = 2**30
MAX_RANK = 32
MAX_SHOWN = 200
METADATA = "__metadata__"


class AbsentTensorError(FileError, KeyError):
    """Raised where a file lacks a tensor that it must hold."""

    __str__ = Exception.__str__


@dataclass(frozen=True)
class TensorHeader:
    """What the header says of one tensor; its bytes are data[begin:end]."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, eq=False, repr=False)
class TensorFile(Mapping[str, Array]):
    """The tensors of a file by name: read-only views of its bytes, made, or read, when asked for.

    `headers` tells dtypes and shapes without touching a value; dropping names from it hides those tensors.
    """

    path: Path
    headers: Mapping[str, TensorHeader]
    data: Array | BytesOnDisk  # uint8 [bytes]

    def __getitem__(self, name: str) -> Array:
        """Return one tensor, a read-only view; raises AbsentTensorError."""
        if name not in self.headers:
            raise AbsentTensorError(f"{self.path}: no tensor {name!a}")
        header = self.headers[name]
        array: Array = self.data[header.begin : header.end].view(header.dtype).reshape(header.shape)
        return array

    @property
    def num_bytes(self) -> int:
        """How many bytes the tensors take."""
        return sum(header.end - header.begin for header in self.headers.values())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the names, in the order of the data."""
        return iter(self.headers)

    def __len__(self) -> int:
        """Return the number of tensors."""
        return len(self.headers)

    def __contains__(self, name: object) -> bool:
        """Tell whether there is a tensor of that name, without reading it."""
        return name in self.headers


def raw_bytes(array: Array) -> memoryview:
    """Return the little-endian bytes of a tensor in C order, without a copy where it is stored so already."""
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    return np.ascontiguousarray(little).reshape(-1).view(np.uint8).data


def digest(array: Array) -> str:
    """Return the sha256 of a tensor's raw little-endian bytes, in hexadecimal."""
    return hashlib.sha256(raw_bytes(array)).hexdigest()


def write_tensors(path: Path, tensors: Mapping[str, Array], *, lasting: bool = True) -> None:
    """Write tensors whole or not at all; equal tensors give equal bytes.

    Wide elements come first, then names in order, so that every tensor is aligned; `lasting` as in `whole_file`.
    Raises FileError for a dtype or name that a file cannot hold.
    """
    names = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    header: dict[str, Any] = {}
    offset = 0
    for name in names:
        _check_name(path, name)
        end = offset + tensors[name].nbytes
        header[name] = {
            "dtype": _stored_dtype(path, name, tensors[name].dtype),
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text = text.ljust(-len(text) % LENGTH_BYTES + len(text))
    with whole_file(path, lasting=lasting) as file:
        file.write(len(text).to_bytes(LENGTH_BYTES, "little"))
        file.write(text)
        for name in names:
            file.write(raw_bytes(tensors[name]))


def open_tensors(path: Path, *, on_disk: bool = False) -> TensorFile:
    """Open a tensor file; the whole header is checked against the file's size.

    Files of up to MAX_READ_BYTES are read, so that whoever cuts them short meanwhile harms nobody; larger ones are
    mapped. With `on_disk` bytes stay where they are until they are asked for, each time, and must not change meanwhile.
    Raises FileError, which names the file and the tensor.
    """
    if not path.is_file():
        raise FileError(f"{path}: {'not a regular file' if path.exists() else 'no such file'}")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            if size < LENGTH_BYTES or length > min(size - LENGTH_BYTES, MAX_HEADER_BYTES):
                raise FileError(f"{path}: truncated or no tensor file: a header of {length} bytes in a file of {size}")
            headers = _parse_header(path, file.read(length), size - LENGTH_BYTES - length)
            num_bytes = size - LENGTH_BYTES - length
            data = BytesOnDisk(path, num_bytes, stamp_of(file.fileno())) if on_disk else _data(path, file, num_bytes)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
    return TensorFile(path, headers, data)


def _data(path: Path, file: BinaryIO, num_bytes: int) -> Array:
    """Return the bytes uint8 that follow a header, read-only; the file stands where they begin."""
    if num_bytes > MAX_READ_BYTES:
        mapped: Array = np.asarray(np.memmap(path, np.uint8, "r"))[file.tell() :]
        return mapped
    data = np.fromfile(file, np.uint8, num_bytes)
    if data.size != num_bytes:
        raise FileError(f"{path}: truncated while it was read: {data.size} of {num_bytes} bytes")
    data.flags.writeable = False
    return data


def _stored_dtype(path: Path, name: str, dtype: np.dtype[Any]) -> str:
    for stored, known in STORED_DTYPES.items():
        if dtype.newbyteorder("<") == known:
            return stored
    raise FileError(f"{_where(path, name)}: dtype {dtype} cannot be stored; use one of {', '.join(STORED_DTYPES)}")


def _check_name(path: Path, name: str) -> None:
    if not name.isprintable() or name == METADATA:
        raise FileError(f"{_where(path, name)}: not a name of a tensor; use printable characters")


def _parse_header(path: Path, text: bytes, data_bytes: int) -> dict[str, TensorHeader]:
    try:
        entries = parse_json(text)
    except ValueError as error:
        raise FileError(f"{path}: the header is not valid JSON: {error}") from None
    if not isinstance(entries, dict):
        raise FileError(f"{path}: the header is no JSON object")
    entries.pop(METADATA, None)
    headers = [(name, _parse_entry(path, name, entry)) for name, entry in entries.items()]
    headers.sort(key=lambda item: (item[1].begin, item[1].end))
    end = 0
    for name, header in headers:
        _check_name(path, name)
        if header.begin != end:
            raise FileError(f"{_where(path, name)}: begins at byte {header.begin} of the data, not at {end}")
        end = header.end
    if end != data_bytes:
        raise FileError(f"{path}: truncated or overlong: the tensors take {end} bytes, the file holds {data_bytes}")
    return dict(headers)


def _parse_entry(path: Path, name: str, entry: Any) -> TensorHeader:
    where = _where(path, name)
    match entry:
        case {"dtype": str(stored), "shape": [*shape], "data_offsets": [begin, end], **rest} if not rest:
            pass
        case _:
            raise FileError(f"{where}: the entry must hold dtype, shape and data_offsets [begin, end], nothing else")
    if stored not in STORED_DTYPES:
        raise FileError(f"{where}: dtype {_shown(stored)} is unknown; known are {', '.join(STORED_DTYPES)}")
    if not all(type(number) is int and number >= 0 for number in (*shape, begin, end)):
        raise FileError(f"{where}: shape {_shown(shape)} and data_offsets must be integers from 0 up")
    dtype = STORED_DTYPES[stored]
    if len(shape) > MAX_RANK or math.prod(size or 1 for size in shape) * dtype.itemsize > MAX_TENSOR_BYTES:
        raise FileError(f"{where}: shape {_shown(shape)} is larger than an array can be")
    size_bytes = math.prod(shape) * dtype.itemsize
    if end - begin != size_bytes:
        raise FileError(f"{where}: shape {shape} of {stored} takes {size_bytes} bytes, data_offsets give {end - begin}")
    return TensorHeader(dtype, tuple(shape), begin, end)


def _where(path: Path, name: str) -> str:
    return f"{path}: tensor {_shown(name)}"


def _shown(value: object) -> str:
    """Return a value from a file as it may appear in a message: ASCII, on one line, and short."""
    text = ascii(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"
