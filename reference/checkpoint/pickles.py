"""Where the arrays lie in a file of the published checkpoint, found without unpickling it (SPEC §8).

A file is the pickle, protocol 4, of one leaf. `decode` interprets the few opcodes that these files need: it builds a
tree of strings, numbers, tuples and inert stand-ins, and answers with the place of each array's bytes in the file.
Nothing is imported, called or allocated on a file's word.
"""

from __future__ import annotations

import enum
import io
import math
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

MAX_OPCODES = 256
"""A published leaf takes at most 160 opcodes."""

MAX_AXES = 3

DTYPES: Mapping[str, np.dtype[Any]] = {
    "int8": np.dtype(np.int8),
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
"""The dtypes that a checkpoint may hold, by name."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used: one line saying what is wrong, in which file, and how to mend it."""


class Global(enum.Enum):
    """The inert stand-ins for the only globals that a file may name (SPEC §9)."""

    QUANTIZED = "QuantizedWeight8bit"
    RECONSTRUCT = "_reconstruct"
    NDARRAY = "ndarray"
    DTYPE = "dtype"
    BFLOAT16 = "bfloat16"


GLOBALS: Mapping[tuple[str, str], Global] = {
    ("__main__", "QuantizedWeight8bit"): Global.QUANTIZED,
    ("numpy.core.multiarray", "_reconstruct"): Global.RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): Global.RECONSTRUCT,
    ("numpy", "ndarray"): Global.NDARRAY,
    ("numpy", "dtype"): Global.DTYPE,
    ("ml_dtypes", "bfloat16"): Global.BFLOAT16,
}


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
            tree = _Interpreter(file, size).run()
        return _leaf(tree)
    except (OSError, _Refused) as error:
        raise CheckpointError(f"{path}: {error}") from error


class _Refused(Exception):  # noqa: N818 - becomes a CheckpointError as soon as the file's name is known
    """What is wrong with the pickle at hand."""


@dataclass(frozen=True)
class _Span:
    """A byte string that stays in the file."""

    offset: int
    length: int


@dataclass(eq=False)
class _Instance:
    """An object that a pickle asks for: which call, with which arguments, with which state. No call is made."""

    function: Global
    arguments: object
    state: object = None


class _Interpreter:
    """A stack machine for the opcodes that the published files hold; any other opcode is refused by name."""

    def __init__(self, file: io.BufferedIOBase | io.BufferedReader, size: int) -> None:
        self.file = file
        self.size = size
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: list[Any] = []

    def run(self) -> object:
        """Return the inert tree of the one object in the file."""
        if self.read(2) != b"\x80\x04":
            raise _Refused("not a pickle of protocol 4; expected a file of a published checkpoint")
        for _ in range(MAX_OPCODES):
            position = self.file.tell()
            opcode = self.read(1)
            if opcode == b".":
                return self.end()
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise _Refused(f"pickle opcode {_opcode_name(opcode)} at byte {position} is not allowed")
            try:
                handler(self)
            except IndexError as error:
                raise _Refused(f"pickle opcode {_opcode_name(opcode)} at byte {position} lacks an operand") from error
        raise _Refused(f"more than {MAX_OPCODES} pickle opcodes; a leaf takes fewer")

    def end(self) -> object:
        trailing = self.size - self.file.tell()
        if trailing or self.marked or len(self.stack) != 1:
            raise _Refused(f"{trailing} bytes and {len(self.stack)} objects left at the end, expected none and one")
        return self.stack.pop()

    def read(self, length: int) -> bytes:
        data = self.file.read(length)
        if len(data) < length:
            raise self.truncated(self.file.tell() + length - len(data))
        return data

    def truncated(self, end: int) -> _Refused:
        return _Refused(f"truncated: {self.size} bytes, at least {end} expected; copy the file again")

    def number(self, length: int, *, signed: bool = False) -> int:
        return int.from_bytes(self.read(length), "little", signed=signed)

    def frame(self) -> None:
        length, start = self.number(8), self.file.tell()
        if start + length > self.size:
            raise self.truncated(start + length)

    def text(self) -> None:
        data = self.read(self.number(1))
        try:
            self.stack.append(data.decode("ascii"))
        except UnicodeDecodeError as error:
            raise _Refused(f"a string that is not ASCII before byte {self.file.tell()}") from error

    def span(self, length_bytes: int) -> None:
        length, start = self.number(length_bytes), self.file.tell()
        if start + length > self.size:
            raise self.truncated(start + length)
        self.file.seek(length, io.SEEK_CUR)
        self.stack.append(_Span(start, length))

    def mark(self) -> None:
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.marked.pop()
        return items

    def tuple_since_mark(self) -> None:
        items = tuple(self.since_mark())
        self.stack.append(items)

    def tuple_of(self, length: int) -> None:
        if len(self.stack) < length:
            raise IndexError
        items = tuple(self.stack[-length:])
        self.stack[-length:] = [items]

    def remember(self) -> None:
        self.memo.append(self.stack[-1])

    def resolve(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise _Refused("a global whose name is not a string")
        if (module, name) not in GLOBALS:
            raise _Refused(f"global {module!r} {name!r} is not allowed: a leaf is NumPy arrays and QuantizedWeight8bit")
        self.stack.append(GLOBALS[module, name])

    def instance(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global):
            raise _Refused(f"an object of type {type(function).__name__} is called")
        self.stack.append(_Instance(function, arguments))

    def state(self) -> None:
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, _Instance) or instance.state is not None:
            raise _Refused("state is set on something else than a new object")
        instance.state = state

    def items(self) -> None:
        items, target = self.since_mark(), self.stack[-1]
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise _Refused("a dictionary that is not one of named values")
        target.update(zip(keys, values, strict=True))


_HANDLERS: Mapping[bytes, Callable[[_Interpreter], None]] = {
    b"\x95": _Interpreter.frame,
    b"\x8c": _Interpreter.text,  # SHORT_BINUNICODE
    b"\x94": _Interpreter.remember,  # MEMOIZE
    b"h": lambda machine: machine.stack.append(machine.memo[machine.number(1)]),  # BINGET
    b"\x93": _Interpreter.resolve,  # STACK_GLOBAL
    b"R": _Interpreter.instance,  # REDUCE
    b"\x81": _Interpreter.instance,  # NEWOBJ
    b"b": _Interpreter.state,  # BUILD
    b"}": lambda machine: machine.stack.append({}),  # EMPTY_DICT
    b"u": _Interpreter.items,  # SETITEMS
    b"(": _Interpreter.mark,
    b"t": _Interpreter.tuple_since_mark,  # TUPLE
    b")": lambda machine: machine.stack.append(()),  # EMPTY_TUPLE
    b"\x85": lambda machine: machine.tuple_of(1),  # TUPLE1
    b"\x86": lambda machine: machine.tuple_of(2),
    b"\x87": lambda machine: machine.tuple_of(3),
    b"K": lambda machine: machine.stack.append(machine.number(1)),  # BININT1
    b"M": lambda machine: machine.stack.append(machine.number(2)),  # BININT2
    b"J": lambda machine: machine.stack.append(machine.number(4, signed=True)),  # BININT
    b"N": lambda machine: machine.stack.append(None),
    b"\x88": lambda machine: machine.stack.append(True),
    b"\x89": lambda machine: machine.stack.append(False),
    b"C": lambda machine: machine.span(1),  # SHORT_BINBYTES
    b"B": lambda machine: machine.span(4),  # BINBYTES
    b"\x8e": lambda machine: machine.span(8),  # BINBYTES8
}


def _opcode_name(opcode: bytes) -> str:
    names = {known.code: known.name for known in pickletools.opcodes}
    return names.get(opcode.decode("latin-1"), f"0x{opcode.hex()}")


def _leaf(tree: object) -> StoredLeaf:
    match tree:
        case _Instance(Global.QUANTIZED, (), {"weight": weight, "scales": scales, **rest}) if not rest:
            return StoredLeaf(_array(weight), _array(scales))
        case _Instance(Global.QUANTIZED):
            raise _Refused("a QuantizedWeight8bit that does not hold just `weight` and `scales`")
        case _:
            return StoredLeaf(_array(tree), None)


def _array(tree: object) -> StoredArray:
    match tree:
        case _Instance(
            Global.RECONSTRUCT,
            (Global.NDARRAY, (0,), _Span(length=1)),
            (1, tuple(shape), dtype_tree, bool(column_major), _Span() as data),
        ):
            pass
        case _:
            raise _Refused("neither a NumPy array nor a QuantizedWeight8bit of NumPy arrays")
    if len(shape) > MAX_AXES or not all(type(length) is int and length >= 0 for length in shape):
        raise _Refused(f"an array whose shape is not up to {MAX_AXES} natural numbers")
    array = StoredArray(_dtype(dtype_tree), shape, "F" if column_major else "C", data.offset)
    if array.num_bytes != data.length:
        raise _Refused(f"{array.dtype} {list(shape)} takes {array.num_bytes} bytes, the file holds {data.length}")
    return array


def _dtype(tree: object) -> np.dtype[Any]:
    match tree:
        case _Instance(Global.DTYPE, (code, False, True), (3, str(byte_order), None, None, None, int(), int(), int())):
            pass
        case _:
            raise _Refused("an array whose dtype is not a plain one")
    names: Mapping[object, str] = {"i1": "int8", "f4": "float32", Global.BFLOAT16: "bfloat16"}
    name = names.get(code) if isinstance(code, str | Global) else None
    if name is None or byte_order not in ("<", "=", "|"):
        stated = byte_order + code if isinstance(code, str) else "unknown"
        raise _Refused(f"an array of dtype {stated!r}; expected little-endian {', '.join(DTYPES)}")
    return DTYPES[name]
