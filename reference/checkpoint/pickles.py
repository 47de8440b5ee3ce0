"""Where the arrays lie in a file of the published checkpoint, found without unpickling it (SPEC §8).

A file is the pickle, protocol 4, of one leaf. `decode` interprets the few opcodes that these files need: it builds a
tree of strings, numbers, tuples and inert stand-ins, and answers with the place of each array's bytes in the file.
Nothing is imported, called or allocated on a file's word.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from grok_conformance.reference.checkpoint.stack_machine import Global, Instance, Interpreter, Refused, Span

Array = NDArray[Any]


MAX_AXES = 3

DTYPES: Mapping[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that a checkpoint may hold, by name."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used: one line saying what is wrong, in which file, and how to fix it."""


@dataclass(frozen=True)
class StoredArray:
    """Where an array's elements lie in a file: from byte `offset` on, little-endian, by rows ("C") or columns ("F")."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int

    @property
    def num_bytes(self) -> int:
        """The bytes that the elements take."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class StoredLeaf:
    """A leaf of the parameter tree in a file; `scales` is None for a plain array (SPEC §8)."""

    weight: StoredArray
    scales: StoredArray | None

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """The leaf's arrays in the order in which the file holds them."""
        return (self.weight,) if self.scales is None else (self.weight, self.scales)


def decode(path: Path) -> StoredLeaf:
    """Return where the arrays of the leaf in `path` lie, reading some hundred bytes and none of the elements (SPEC §8).

    Raises:
        CheckpointError: the file cannot be read, is truncated, or holds anything but one leaf of the published format.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(0)
            tree = Interpreter(file, size).run()
        return _leaf(tree)
    except (OSError, Refused) as error:
        raise CheckpointError(f"{path}: {error}") from error


def _leaf(tree: object) -> StoredLeaf:
    match tree:
        case Instance(Global.QUANTIZED, (), {"weight": weight, "scales": scales, **rest}) if not rest:
            return StoredLeaf(_array(weight), _array(scales))
        case Instance(Global.QUANTIZED):
            raise Refused("a QuantizedWeight8bit that does not hold just `weight` and `scales`")
        case _:
            return StoredLeaf(_array(tree), None)


def _array(tree: object) -> StoredArray:
    match tree:
        case Instance(
            Global.RECONSTRUCT,
            (Global.NDARRAY, (0,), Span(length=1)),
            (1, tuple(shape), dtype_tree, bool(column_major), Span() as data),
        ):
            pass
        case _:
            raise Refused("neither a NumPy array nor a QuantizedWeight8bit of NumPy arrays")
    if len(shape) > MAX_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise Refused(f"an array whose shape is not up to {MAX_AXES} natural numbers")
    array = StoredArray(_dtype(dtype_tree), shape, "F" if column_major else "C", data.offset)
    if array.num_bytes != data.length:
        raise Refused(f"{array.dtype} {list(shape)} takes {array.num_bytes} bytes, the file holds {data.length}")
    return array


def _dtype(tree: object) -> np.dtype[Any]:
    match tree:
        case Instance(Global.DTYPE, (code, False, True), (3, str(byte_order), None, None, None, int(), int(), int())):
            pass
        case _:
            raise Refused("an array whose dtype is not a plain one")
    names: Mapping[object, str] = {"i1": "int8", "f4": "float32", Global.BFLOAT16: "bfloat16"}
    name = names.get(code) if isinstance(code, str | Global) else None
    if name is None or byte_order not in ("<", "=", "|"):
        stated = byte_order + code if isinstance(code, str) else "unknown"
        raise Refused(f"an array of dtype {stated!r}; expected little-endian {', '.join(DTYPES)}")
    return DTYPES[name]
