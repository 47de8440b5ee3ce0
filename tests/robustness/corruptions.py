"""Corrupted bytes: every way in which a file may come back from a disk, a network or an enemy."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Random = np.random.Generator
Corruption = Callable[[Random, bytes], bytes]

ABSURD: tuple[Any, ...] = (-1, 2**31, 2**63, 2**64, 10**30, 1e308, None, True, "2", [], {}, [[]], "../../etc")
"""What stands where a size or an offset should."""


def at(random: Random, data: bytes) -> int:
    return int(random.integers(len(data)))


def flip_bit(random: Random, data: bytes) -> bytes:
    changed = bytearray(data)
    changed[at(random, data)] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwrite(random: Random, data: bytes) -> bytes:
    begin, size = at(random, data), int(random.integers(1, 9))
    return data[:begin] + random.bytes(size) + data[begin + size :]


def truncate(random: Random, data: bytes) -> bytes:
    return data[: at(random, data)]


def extend(random: Random, data: bytes) -> bytes:
    return data + random.bytes(int(random.integers(1, 17)))


def cut_out(random: Random, data: bytes) -> bytes:
    begin = at(random, data)
    return data[:begin] + data[begin + int(random.integers(1, 33)) :]


def repeat(random: Random, data: bytes) -> bytes:
    begin = at(random, data)
    return data[:begin] + data[begin : begin + int(random.integers(1, 33))] + data[begin:]


def erase(random: Random, data: bytes) -> bytes:
    begin = at(random, data)
    size = min(len(data) - begin, int(random.integers(1, 257)))
    return data[:begin] + bytes(size) + data[begin + size :]


def shuffle_blocks(random: Random, data: bytes) -> bytes:
    first, second = sorted(int(x) for x in random.integers(0, len(data) + 1, 2))
    return data[second:] + data[first:second] + data[:first]


BYTES: Mapping[str, Corruption] = {
    f.__name__: f for f in (flip_bit, overwrite, truncate, extend, cut_out, repeat, erase, shuffle_blocks)
}
"""Corruptions of any file."""


def split_tensors(data: bytes) -> tuple[dict[str, Any], bytes]:
    """Return header and data of a tensor file."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def join_tensors(header: str, data: bytes) -> bytes:
    text = header.encode()
    return struct.pack("<Q", len(text)) + text + data


def absurd_header(random: Random, data: bytes) -> bytes:
    """Put something absurd into one place of one entry."""
    header, values = split_tensors(data)
    entry = header[str(random.choice(list(header)))]
    evil = ABSURD[int(random.integers(len(ABSURD)))]
    match str(random.choice(["dtype", "shape", "axis", "offsets", "entry"])):
        case "axis" if entry["shape"]:
            entry["shape"][int(random.integers(len(entry["shape"])))] = evil
        case "offsets":
            entry["data_offsets"][int(random.integers(2))] = evil
        case "entry":
            entry[str(random.choice(list(entry)))] = evil
        case "dtype":
            others = [
                name for name in ("F8", "I8", "F32", "BF16", "U64", "f32", "F" * 10_000) if name != entry["dtype"]
            ]
            entry["dtype"] = str(random.choice(others))
        case _:
            entry["shape"] = [65536] * int(random.integers(1, 80))
    return join_tensors(json.dumps(header), values)


def repeat_key(random: Random, data: bytes) -> bytes:
    header, values = split_tensors(data)
    name = str(random.choice(list(header)))
    text = json.dumps(header)
    return join_tensors(f"{text[:-1]}, {json.dumps(name)}: {json.dumps(header[name])}}}", values)


def rename_tensor(random: Random, data: bytes) -> bytes:
    header, values = split_tensors(data)
    header[str(random.choice(["../x", "/etc/passwd", "a\nb", "", "call0/logits ", "é", "x" * 5000]))] = header.pop(
        str(random.choice(list(header)))
    )
    return join_tensors(json.dumps(header), values)


def swap_tensors(random: Random, data: bytes) -> bytes:
    """Exchange the offsets of two tensors of one size, or reverse all values where no two have one."""
    header, values = split_tensors(data)
    names = [str(name) for name in random.permutation(list(header))]
    for first in names:
        for second in names:
            a, b = header[first]["data_offsets"], header[second]["data_offsets"]
            if first != second and a[1] - a[0] == b[1] - b[0]:
                header[first]["data_offsets"], header[second]["data_offsets"] = b, a
                return join_tensors(json.dumps(header), values)
    return join_tensors(json.dumps(header), values[::-1])


def lie_about_the_header(random: Random, data: bytes) -> bytes:
    length = int(random.choice([0, 1, 7, len(data), 2**24 + 1, 2**40, 2**63 - 1]))
    return struct.pack("<Q", length) + data[8:]


TENSORS: Mapping[str, Corruption] = {
    f.__name__: f for f in (absurd_header, repeat_key, rename_tensor, swap_tensors, lie_about_the_header)
}
"""Corruptions of a tensor file that know its format."""


def truncations(data: bytes) -> Iterator[bytes]:
    """Yield a tensor file cut at every byte of its header, and around the end of every tensor."""
    header, values = split_tensors(data)
    begin = len(data) - len(values)
    ends = {begin + offset for entry in header.values() for offset in entry["data_offsets"]}
    for end in sorted({*range(begin + 1), *(end + more for end in ends for more in (-1, 0, 1))}):
        if 0 <= end < len(data):
            yield data[:end]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of everything inside parsed JSON."""
    children: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in children:
        yield (*path, key)
        yield from places(child, (*path, key))


def another_kind(random: Random, text: bytes) -> bytes:
    """Put a value of another kind into one place of a JSON file, drop the place, or give its key twice."""
    data = json.loads(text)
    found = list(places(data))
    *owners, last = found[int(random.integers(len(found)))]
    owner = data
    for key in owners:
        owner = owner[key]
    kind = {bool: 0, int: 1, float: 1, str: 2, list: 3, dict: 4}.get(type(owner[last]))
    evil: tuple[Any, ...] = (True, 2**70, "../../etc/passwd", [{}], {"a": 1}, None, float("nan"))
    owner[last] = evil[int(random.choice([i for i in range(len(evil)) if i != kind]))]
    return json.dumps(data).encode()


MALFORMED = (
    b"[" * 50_000,
    b'{"a":' * 50_000,
    b"\xff\xfe",
    b"",
    b"null",
    b"[]",
    b"{}",
    b"NaN",
    b'{"a": 1, "a": 1}',
    b"1" * 9999,
)


def malformed_json(random: Random, text: bytes) -> bytes:
    return (*MALFORMED, text + b"}")[int(random.integers(len(MALFORMED) + 1))]


NUMBERS = (
    *("1e999", "-1e999", "1" + "0" * 400, "-1", "1e308", "0", "-0.0", "1e-999", str(2**63)),
    *('"\\ud800"', '"\\u001b[2J"'),
)
"""What JSON can write and a number of 64 bits, or a terminal, cannot hold; and other values at the border."""


def at_the_border(random: Random, text: bytes) -> bytes:
    """Put a number or a text at the border of what is possible into one place of a JSON file."""
    data = json.loads(text)
    found = list(places(data))
    *owners, last = found[int(random.integers(len(found)))]
    owner = data
    for key in owners:
        owner = owner[key]
    owner[last] = "here"
    number = NUMBERS[int(random.integers(len(NUMBERS)))]
    return json.dumps(data).replace('"here"', number, 1).encode()


JSON: Mapping[str, Corruption] = {f.__name__: f for f in (another_kind, malformed_json, at_the_border)}
"""Corruptions of a JSON file that know its format."""


def one_line_of(random: Random, text: bytes) -> bytes:
    """Corrupt one line of a file that holds JSON in every line."""
    lines = text.splitlines()
    index = int(random.integers(len(lines)))
    lines[index] = corrupt(random, "line.json", lines[index])[1]
    return b"\n".join(lines)


VALUES = (
    *("1e999", "[[[]]]", '""', '"\\u001b[2J"', "2099-13-41", "true", "{}", f'"{"x" * 5000}"', "nan", "9" * 400),
    *('"2099-99-99"', '"**"', '"["', "1979-05-27"),
)
"""What stands behind the equals sign of a TOML file."""


def another_value(random: Random, text: bytes) -> bytes:
    """Put another value behind one of the equals signs of a TOML file."""
    found = list(re.finditer(rb"= .*", text))
    place = found[int(random.integers(len(found)))]
    value = VALUES[int(random.integers(len(VALUES)))].encode()
    return text[: place.start()] + b"= " + value + text[place.end() :]


KNOWN: Mapping[str, Mapping[str, Corruption]] = {
    ".safetensors": TENSORS,
    ".json": JSON,
    ".jsonl": {"one_line_of": one_line_of},
    ".toml": {"another_value": another_value},
}
"""Corruptions that know the format of a file, by the end of its name."""


def corrupt(random: Random, name: str, data: bytes) -> tuple[str, bytes]:
    """Return one corruption of a file that knows its format as often as not, by name; never the file as it was."""
    special = KNOWN.get(Path(name).suffix, {})
    kinds = [*BYTES.items(), *special.items()]
    while True:
        pool = list(special.items()) if special and random.random() < 0.5 else kinds
        what, corruption = pool[int(random.integers(len(pool)))]
        changed = corruption(random, data)
        if changed != data:
            return what, changed
