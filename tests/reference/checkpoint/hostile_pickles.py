"""Files that a checkpoint must never contain: each tries to run, import, allocate or confuse something.

`DECOY` is what the files that can run code would create. `HOSTILE` is every file by what it tries.
"""

from __future__ import annotations

import pickle
import struct

import numpy as np

from grok_conformance.reference.checkpoint.encoding import encode

PROTO, STOP, MARK, MEMOIZE = b"\x80\x04", b".", b"(", b"\x94"
REDUCE, BUILD, NEWOBJ, NEWOBJ_EX, TUPLE = b"R", b"b", b"\x81", b"\x92", b"t"
EMPTY_TUPLE, TUPLE1, TUPLE2, TUPLE3, EMPTY_DICT, EMPTY_LIST = b")", b"\x85", b"\x86", b"\x87", b"}", b"]"
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"

DECOY = "executed"
COMMAND = f"touch {DECOY}"


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def data(content: bytes) -> bytes:
    return b"C" + bytes([len(content)]) + content


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + MARK + b"".join(arguments) + TUPLE + REDUCE


def pickled(*opcodes: bytes) -> bytes:
    return PROTO + b"".join(opcodes) + STOP


RECONSTRUCT = name("numpy.core.multiarray", "_reconstruct")
NDARRAY = name("numpy", "ndarray")
NEW_ARRAY = call(RECONSTRUCT, NDARRAY, number(0) + TUPLE1, data(b"b"))
QUANTIZED = name("__main__", "QuantizedWeight8bit") + EMPTY_TUPLE + NEWOBJ


def dtype(code: bytes, order: str = "<", names: bytes = NONE) -> bytes:
    state = MARK + number(3) + text(order) + NONE + names + NONE + number(-1) * 2 + number(0) + TUPLE
    return call(name("numpy", "dtype"), code, FALSE, TRUE) + state + BUILD


FLOAT32 = dtype(text("f4"))


def array(shape: bytes, type_: bytes = FLOAT32, content: bytes = data(bytes(24)), *, new: bytes = NEW_ARRAY) -> bytes:
    return new + MARK + number(1) + shape + type_ + FALSE + content + TUPLE + BUILD


SHAPE = number(2) + number(3) + TUPLE2
GOOD = pickled(array(SHAPE))
"""What none of the files is: an honest one, made of the same parts."""

EXECUTING = {
    "os.system, protocol 0": f"cos\nsystem\n(S'{COMMAND}'\ntR.".encode(),
    "os.system, protocol 2": b"\x80\x02"
    + f"cos\nsystem\nX{chr(len(COMMAND))}\0\0\0{COMMAND}".encode()
    + TUPLE1
    + b"R.",
    "os.system": pickled(call(name("os", "system"), text(COMMAND))),
    "posix.system": pickled(call(name("posix", "system"), text(COMMAND))),
    "eval": pickled(call(name("builtins", "eval"), text(f"__import__('os').system('{COMMAND}')"))),
    "exec": pickled(call(name("builtins", "exec"), text(f"import os; os.system('{COMMAND}')"))),
    "subprocess": pickled(call(name("subprocess", "check_call"), MARK + text("touch") + text(DECOY) + TUPLE)),
    "global nested in a module of NumPy": pickled(call(name("numpy", "_pytesttester.os.system"), text(COMMAND))),
    "global nested in an allowed one": pickled(call(name("numpy", "ndarray.tofile"), array(SHAPE), text(DECOY))),
    "getattr chain": pickled(
        call(name("builtins", "getattr"), name("os", "path"), text("os")),
        b"0",
        call(call(name("builtins", "getattr"), name("posixpath", "os"), text("system")), text(COMMAND)),
    ),
    "gadget in NumPy": pickled(
        call(name("numpy.testing._private.utils", "runstring"), text(f"import os; os.system('{COMMAND}')"), EMPTY_DICT)
    ),
    "INST": f"(S'{COMMAND}'\nios\nsystem\n.".encode(),
    "OBJ": PROTO + MARK + name("os", "system") + text(COMMAND) + b"o.",
    "array with a payload before it": pickled(call(name("os", "system"), text(COMMAND)), b"0", array(SHAPE)),
    "payload as the array's data": pickled(array(SHAPE, content=call(name("os", "system"), text(COMMAND)))),
    "payload as the scales": pickled(
        QUANTIZED + EMPTY_DICT + MARK + text("weight") + array(SHAPE),
        text("scales") + call(name("os", "system"), text(COMMAND)) + b"u" + BUILD,
    ),
}
"""Files that run a command when the standard unpickler reads them."""

HOSTILE = EXECUTING | {
    "import": pickled(call(name("importlib", "import_module"), text("antigravity"))),
    "import by naming": pickled(name("this", "s")),
    "persistent id": b"Pmodule\n.",
    "binary persistent id": PROTO + text("module") + b"Q.",
    "extension code, 1 byte": PROTO + b"\x82\x01.",
    "extension code, 2 bytes": PROTO + b"\x83\x01\x01.",
    "extension code, 4 bytes": PROTO + b"\x84\x01\x01\x01\x01.",
    "out-of-band buffer": b"\x80\x05\x97.",
    "out-of-band buffer in protocol 4": pickled(array(SHAPE, content=b"\x97")),
    "read-only out-of-band buffer": pickled(array(SHAPE, content=b"\x97\x98")),
    "array as protocol 5 writes it": pickle.dumps(np.zeros((2, 3), np.float32), protocol=5),
    "byte array of 4 EB": PROTO + b"\x96" + struct.pack("<Q", 1 << 62),
    "bytes of 4 EB": PROTO + b"\x8e" + struct.pack("<Q", 1 << 62),
    "bytes of 4 GB": PROTO + b"B" + struct.pack("<I", (1 << 32) - 1),
    "string of 4 EB": PROTO + b"\x8d" + struct.pack("<Q", 1 << 62),
    "integer of 2 GB": PROTO + b"\x8b" + struct.pack("<i", (1 << 31) - 1),
    "frame of 4 EB": PROTO + b"\x95" + struct.pack("<Q", 1 << 62) + GOOD[2:],
    "huge shape": pickled(array(number(2**31 - 1) + number(2**31 - 1) + TUPLE2)),
    "huge shape with a zero": pickled(array(number(2**31 - 1) * 2 + number(0) + TUPLE3)),
    "shape larger than the data": pickled(array(number(2) + number(4) + TUPLE2)),
    "shape smaller than the data": pickled(array(number(2) + number(2) + TUPLE2)),
    "negative shape": pickled(array(number(-2) + number(-3) + TUPLE2)),
    "shape of booleans": pickled(array(number(6) + TRUE + TUPLE2)),
    "shape of tuples": pickled(array(SHAPE + SHAPE + TUPLE2)),
    "shape of 60 axes": pickled(array(MARK + number(1) * 59 + number(6) + TUPLE)),
    "shape that is a string": pickled(array(text("23"))),
    "object array": pickle.dumps(np.array([[1, 2, 3], [4, 5, None]]), protocol=4),
    "object array of bytes": pickled(array(SHAPE, dtype(text("O8"), "|"))),
    "structured dtype": pickled(array(SHAPE, dtype(text("V4"), "|", names=text("f") + TUPLE1))),
    "dtype of a gigabyte": pickled(array(SHAPE, dtype(text("S1073741824"), "|"))),
    "dtype from an allowed class": pickled(array(SHAPE, dtype(NDARRAY))),
    "dtype from a tuple": pickled(array(SHAPE, dtype(SHAPE))),
    "dtype without state": pickled(array(SHAPE, call(name("numpy", "dtype"), text("f4"), FALSE, TRUE))),
    "float64": pickled(array(number(3) + TUPLE1, dtype(text("f8")))),
    "big-endian": pickled(array(SHAPE, dtype(text("f4"), ">"))),
    "ndarray called with a huge shape": pickled(call(NDARRAY, number(2**31 - 1) + TUPLE1)),
    "_reconstruct with a huge shape": pickled(
        array(SHAPE, new=call(RECONSTRUCT, NDARRAY, number(2**31 - 1) + TUPLE1, data(b"b")))
    ),
    "_reconstruct of another class": pickled(
        array(SHAPE, new=call(RECONSTRUCT, name("numpy", "dtype"), number(0) + TUPLE1, data(b"b")))
    ),
    "_reconstruct without arguments": pickled(array(SHAPE, new=RECONSTRUCT + EMPTY_TUPLE + REDUCE)),
    "_reconstruct with arguments that are no tuple": pickled(array(SHAPE, new=RECONSTRUCT + text("b") + REDUCE)),
    "_reconstruct of 4 GB of type code": pickled(
        array(SHAPE, new=call(RECONSTRUCT, NDARRAY, number(0) + TUPLE1, b"B\xff\xff\xff\xff"))
    ),
    "_reconstruct with a long type code": pickled(
        array(SHAPE, new=call(RECONSTRUCT, NDARRAY, number(0) + TUPLE1, data(b"bb")))
    ),
    "dtype called with an array": pickled(array(SHAPE, call(name("numpy", "dtype"), array(SHAPE), FALSE, TRUE))),
    "array without state": pickled(NEW_ARRAY),
    "array with a dictionary as state": pickled(NEW_ARRAY + EMPTY_DICT + MARK + text("data") + NONE + b"u" + BUILD),
    "array with two states": pickled(array(SHAPE, new=array(SHAPE))),
    "string as the data": pickled(array(SHAPE, content=text("0" * 24))),
    "call of an array": pickled(array(SHAPE) + EMPTY_TUPLE + REDUCE),
    "call of a string": pickled(call(text("os.system"), text(COMMAND))),
    "state set on a class": pickled(NDARRAY + EMPTY_DICT + BUILD),
    "NEWOBJ_EX": pickled(NDARRAY + EMPTY_TUPLE + EMPTY_DICT + NEWOBJ_EX),
    "quantised with arguments": pickled(name("__main__", "QuantizedWeight8bit") + SHAPE + NEWOBJ),
    "quantised with a further attribute": pickled(
        QUANTIZED + EMPTY_DICT + MARK,
        text("weight") + array(SHAPE) + text("scales") + array(SHAPE) + text("__class__") + NONE + b"u" + BUILD,
    ),
    "quantised without scales": pickled(QUANTIZED + EMPTY_DICT + MARK + text("weight") + array(SHAPE) + b"u" + BUILD),
    "quantised in a quantised": pickled(
        QUANTIZED + EMPTY_DICT + MARK + text("weight") + QUANTIZED + text("scales") + array(SHAPE) + b"u" + BUILD
    ),
    "quantised with slots": pickled(QUANTIZED + NONE + EMPTY_DICT + TUPLE2 + BUILD),
    "dictionary with a tuple as key": pickled(EMPTY_DICT + MARK + SHAPE + NONE + b"u"),
    "dictionary with an odd number of items": pickled(EMPTY_DICT + MARK + text("weight") + b"u"),
    "items set on a string": pickled(text("weight") + MARK + text("weight") + NONE + b"u"),
    "memo bomb": pickled(text("x") + MEMOIZE + b"".join(b"h%ch%c" % (i, i) + TUPLE2 + MEMOIZE for i in range(60))),
    "memo bomb as a shape": pickled(
        array(text("x") + MEMOIZE + b"".join(b"h%ch%c" % (i, i) + TUPLE2 + MEMOIZE for i in range(40)))
    ),
    "memo slot 2^31": PROTO + text("x") + b"r\xff\xff\xff\x7f.",
    "memo never filled": PROTO + b"h\x05.",
    "memo far beyond": PROTO + b"j\xff\xff\xff\x7f.",
    "state that holds itself": pickled(NEW_ARRAY + MEMOIZE + b"h\x00" + TUPLE1 + BUILD),
    "duplicates": pickled(text("x") + b"2" * 200 + TUPLE3),
    "a million marks": PROTO + MARK * 1_000_000 + STOP,
    "a million nested tuples": PROTO + EMPTY_TUPLE + TUPLE1 * 1_000_000 + STOP,
    "endless strings": PROTO + text("x" * 255) * 100_000 + STOP,
    "list": pickled(EMPTY_LIST),
    "set": pickled(b"\x8f"),
    "string that is not ASCII": pickled(b"\x8c\x02\xff\xfe"),
    "global named by numbers": pickled(number(1) + number(2) + b"\x93"),
    "nothing to call": PROTO + REDUCE + STOP,
    "tuple of nothing": PROTO + TUPLE3 + STOP,
    "tuple without a mark": PROTO + TUPLE + STOP,
    "mark left open": PROTO + MARK + array(SHAPE) + STOP,
    "operand below the mark": PROTO + array(SHAPE) + MARK + EMPTY_TUPLE + BUILD + STOP,
    "nothing": b"",
    "only the protocol": PROTO,
    "nothing but the end": PROTO + STOP,
    "no end": GOOD[:-1],
    "two objects": pickled(array(SHAPE), array(SHAPE)),
    "a second pickle behind": GOOD + GOOD,
    "protocol 3": b"\x80\x03" + GOOD[2:],
    "an unknown opcode": PROTO + b"\xff.",
    "truncated": b"".join(bytes(piece) for piece in encode(np.zeros((300, 300), np.float32), None))[:1000],
}
"""Files that are not leaves of a published checkpoint, by what they try."""
