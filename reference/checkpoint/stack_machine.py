"""A stack machine for the few opcodes of a published pickle: it builds inert stand-ins and calls nothing (SPEC §8)."""

from __future__ import annotations

import enum
import io
import pickletools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_OPCODES = 256
"""A published leaf takes at most 160 opcodes."""


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


class Refused(Exception):  # noqa: N818 - becomes a CheckpointError as soon as the file's name is known
    """What is wrong with the pickle at hand."""


@dataclass(frozen=True)
class Span:
    """A byte string that stays in the file."""

    offset: int
    length: int


@dataclass(eq=False)
class Instance:
    """An object that a pickle asks for: which call, with which arguments, with which state. No call is made."""

    function: Global
    arguments: object
    state: object = None


class Interpreter:
    """A stack machine for the opcodes that the published files hold; any other opcode is refused by name."""

    def __init__(self, file: io.BufferedIOBase | io.BufferedReader, size: int) -> None:
        """Begin with a file of `size` bytes and an empty stack."""
        self.file = file
        self.size = size
        self.stack: list[Any] = []
        self.marked: list[list[Any]] = []  # the stacks below each open MARK
        self.memo: list[Any] = []

    def run(self) -> object:
        """Return the inert tree of the one object in the file."""
        if self.read(2) != b"\x80\x04":
            raise Refused("not a pickle of protocol 4; expected a file of a published checkpoint")
        for _ in range(MAX_OPCODES):
            position = self.file.tell()
            opcode = self.read(1)
            if opcode == b".":
                return self.end()
            handler = _HANDLERS.get(opcode)
            if handler is None:
                raise Refused(f"pickle opcode {opcode_name(opcode)} at byte {position} is not allowed")
            try:
                handler(self)
            except IndexError as error:
                raise Refused(f"pickle opcode {opcode_name(opcode)} at byte {position} lacks an operand") from error
        raise Refused(f"more than {MAX_OPCODES} pickle opcodes; a leaf takes fewer")

    def end(self) -> object:
        """Return what is left on the stack, which must be one object at the end of the file."""
        trailing = self.size - self.file.tell()
        if trailing or self.marked or len(self.stack) != 1:
            raise Refused(f"{trailing} bytes and {len(self.stack)} objects left at the end, expected none and one")
        return self.stack.pop()

    def read(self, length: int) -> bytes:
        """Return the next bytes; raises Refused where the file ends before."""
        data = self.file.read(length)
        if len(data) < length:
            raise self.truncated(self.file.tell() + length - len(data))
        return data

    def truncated(self, end: int) -> Refused:
        """Return the refusal of a file that ends too soon."""
        return Refused(f"truncated: {self.size} bytes, at least {end} expected; copy the file again")

    def number(self, length: int, *, signed: bool = False) -> int:
        """Read a little-endian number of so many bytes."""
        return int.from_bytes(self.read(length), "little", signed=signed)

    def frame(self) -> None:
        """Read the length of a frame, and make sure that the file holds it."""
        length, start = self.number(8), self.file.tell()
        if start + length > self.size:
            raise self.truncated(start + length)

    def text(self) -> None:
        """Push a short ASCII string."""
        data = self.read(self.number(1))
        try:
            self.stack.append(data.decode("ascii"))
        except UnicodeDecodeError as error:
            raise Refused(f"a string that is not ASCII before byte {self.file.tell()}") from error

    def span(self, length_bytes: int) -> None:
        """Push the place of a byte string, and pass over its bytes."""
        length, start = self.number(length_bytes), self.file.tell()
        if start + length > self.size:
            raise self.truncated(start + length)
        self.file.seek(length, io.SEEK_CUR)
        self.stack.append(Span(start, length))

    def mark(self) -> None:
        """Begin a new stack above this one."""
        self.marked.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return the items of the stack that was begun last, and go back to the one below."""
        items, self.stack = self.stack, self.marked.pop()
        return items

    def tuple_since_mark(self) -> None:
        """Push the items since the last mark as a tuple."""
        items = tuple(self.since_mark())
        self.stack.append(items)

    def tuple_of(self, length: int) -> None:
        """Push the last items as a tuple."""
        if len(self.stack) < length:
            raise IndexError
        items = tuple(self.stack[-length:])
        self.stack[-length:] = [items]

    def remember(self) -> None:
        """Keep the top of the stack in the memo."""
        self.memo.append(self.stack[-1])

    def resolve(self) -> None:
        """Push the stand-in of a global that is named; raises Refused for any other name."""
        name, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(name, str)):
            raise Refused("a global whose name is not a string")
        if (module, name) not in GLOBALS:
            raise Refused(f"global {module!r} {name!r} is not allowed: a leaf is NumPy arrays and QuantizedWeight8bit")
        self.stack.append(GLOBALS[module, name])

    def instance(self) -> None:
        """Push what a call would make, without calling."""
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global):
            raise Refused(f"an object of type {type(function).__name__} is called")
        self.stack.append(Instance(function, arguments))

    def state(self) -> None:
        """Give the object below the top its state, once."""
        state, instance = self.stack.pop(), self.stack[-1]
        if not isinstance(instance, Instance) or instance.state is not None:
            raise Refused("state is set on something else than a new object")
        instance.state = state

    def items(self) -> None:
        """Put pairs of key and value into the dictionary below them."""
        items, target = self.since_mark(), self.stack[-1]
        keys, values = items[::2], items[1::2]
        if not isinstance(target, dict) or len(keys) != len(values) or not all(isinstance(key, str) for key in keys):
            raise Refused("a dictionary that is not one of named values")
        target.update(zip(keys, values, strict=True))


_HANDLERS: Mapping[bytes, Callable[[Interpreter], None]] = {
    b"\x95": Interpreter.frame,
    b"\x8c": Interpreter.text,  # SHORT_BINUNICODE
    b"\x94": Interpreter.remember,  # MEMOIZE
    b"h": lambda machine: machine.stack.append(machine.memo[machine.number(1)]),  # BINGET
    b"\x93": Interpreter.resolve,  # STACK_GLOBAL
    b"R": Interpreter.instance,  # REDUCE
    b"\x81": Interpreter.instance,  # NEWOBJ
    b"b": Interpreter.state,  # BUILD
    b"}": lambda machine: machine.stack.append({}),  # EMPTY_DICT
    b"u": Interpreter.items,  # SETITEMS
    b"(": Interpreter.mark,
    b"t": Interpreter.tuple_since_mark,  # TUPLE
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


def opcode_name(opcode: bytes) -> str:
    """Return the name of an opcode, or its byte where it has none."""
    names = {known.code: known.name for known in pickletools.opcodes}
    return names.get(opcode.decode("latin-1"), f"0x{opcode.hex()}")
