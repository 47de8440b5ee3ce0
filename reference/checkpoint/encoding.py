"""One leaf as the pickle that the published checkpoint holds of it, its arrays uncopied (SPEC §8).

The bytes are those of CPython's pickler, protocol 4, under the published module names. But for shape, dtype and data
the opcodes of all leaves are alike, and so are the numbers under which the pickle's memo holds what is used twice.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from grok_conformance.reference.checkpoint.pickles import DTYPES, Array

LARGE_BYTES = 64 * 1024
"""Byte strings from this size on stand outside the pickle's frames."""


def encode(weight: Array, scales: Array | None) -> Iterator[bytes | memoryview]:
    """Yield the pickle of one leaf in pieces, the large arrays uncopied (SPEC §8).

    Both arrays must be of a dtype in `DTYPES`. They are written by rows; one that is not stored by rows is copied.
    """
    frame = bytearray()
    for piece in _plain(weight) if scales is None else _quantized(weight, scales):
        if isinstance(piece, bytes):
            frame += piece
            continue
        header, data = _byte_string_header(piece.nbytes), piece.reshape(-1).view(np.uint8).data
        if piece.nbytes < LARGE_BYTES:
            frame += header + data
        else:
            yield _framed(frame) + header
            yield data
            frame.clear()
    yield _framed(frame)


def _plain(array: Array) -> Iterator[bytes | Array]:
    yield b"\x80\x04"
    yield from _first_array(array, 0)
    yield b"."


def _quantized(weight: Array, scales: Array) -> Iterator[bytes | Array]:
    yield b"\x80\x04" + _global("__main__", "QuantizedWeight8bit") + b")\x81\x94}\x94("  # NEWOBJ, EMPTY_DICT, MARK
    yield _text("weight")
    yield from _first_array(weight, 6)
    yield _text("scales")
    yield b"h\x08h\x0bK\x00\x85\x94h\x0d\x87\x94R\x94"  # _reconstruct(ndarray, (0,), b"b"), all but (0,) from the memo
    yield from _array_state(scales, b"h\x12")
    yield b"ub."  # SETITEMS, BUILD, STOP


def _first_array(array: Array, num_memoized: int) -> Iterator[bytes | Array]:
    yield _global("numpy.core.multiarray", "_reconstruct") + _global("numpy", "ndarray")
    yield b"K\x00\x85\x94C\x01b\x94\x87\x94R\x94"  # (0,), b"b", REDUCE
    numpy_again = bytes([ord("h"), num_memoized + 3])
    yield from _array_state(array, numpy_again + _text("dtype") + b"\x93\x94")


def _array_state(array: Array, dtype_global: bytes) -> Iterator[bytes | Array]:
    yield b"(K\x01" + _shape(array.shape) + dtype_global
    if array.dtype == DTYPES["bfloat16"]:
        yield _global("ml_dtypes", "bfloat16") + _dtype_state("<", b"K\x02K\x02K\x40")
    else:
        no_size = b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00"
        yield _text(array.dtype.str[1:]) + _dtype_state(array.dtype.str[0], no_size)
    yield b"\x89"  # row-major
    yield array
    yield b"\x94t\x94b"


def _dtype_state(byte_order: str, size: bytes) -> bytes:
    return b"\x89\x88\x87\x94R\x94(K\x03" + _text(byte_order) + b"NNN" + size + b"t\x94b"


def _shape(shape: tuple[int, ...]) -> bytes:
    lengths = b"".join(_integer(length) for length in shape)
    return lengths + b"\x85\x86\x87"[len(shape) - 1 : len(shape)] + b"\x94"


def _integer(number: int) -> bytes:
    if number < 2**8:
        return struct.pack("<cB", b"K", number)
    return struct.pack("<cH", b"M", number) if number < 2**16 else struct.pack("<ci", b"J", number)


def _text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode("ascii") + b"\x94"


def _global(module: str, name: str) -> bytes:
    return _text(module) + _text(name) + b"\x93\x94"


def _byte_string_header(length: int) -> bytes:
    if length < 2**8:
        return struct.pack("<cB", b"C", length)
    return struct.pack("<cI", b"B", length) if length < 2**32 else struct.pack("<cQ", b"\x8e", length)


def _framed(data: bytearray) -> bytes:
    """Return `data` as one frame; the protocol's opcode stands before the first frame."""
    start, body = (data[:2], data[2:]) if data[:2] == b"\x80\x04" else (b"", data)
    return bytes(start) + b"\x95" + struct.pack("<Q", len(body)) + bytes(body)
