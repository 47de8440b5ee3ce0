"""Files written whole or not at all, and JSON read strictly."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import re
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 16 * 2**20

MAX_REPORT_BYTES = 2**30
"""The most that is read of what holds figures of every tap of every case."""


STANDARD_OUTPUT = Path("-")
"""The name under which a report goes to standard output."""

MAX_DIGITS = 20
"""Digits of an integer in JSON, its sign included: as many as 64 bits need."""

LONE_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
"""How an escape in JSON begins that may be half a character."""

MAX_STEM = 100
"""Characters of a file's name that its unfinished copy takes over; a file system allows 255 bytes in all."""

MAX_SHOWN_PATH = 300
"""Characters of a path that a message shows."""


class FileError(ValueError):
    """A file that does not hold what it should; the message is one line that names the file."""


ABSENT = "no such file"


def plain_path(folder: Path, *parts: str) -> tuple[Path, str]:
    """Return a path below a folder, and why it is no plain file reached by no link, an empty string where it is."""
    path = folder
    for part in parts:
        path /= part
        if path.is_symlink():
            return path, "a link"
    if not path.exists():
        return path, ABSENT
    return path, "" if path.is_file() else "not a regular file"


@contextlib.contextmanager
def whole_file(path: Path, *, lasting: bool = True) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` only once it is complete and, if `lasting`, on the disk.

    What passes between processes is read at once and need not outlast the machine: waiting for the disk would be most
    of the time that small answers take.

    If the block raises, nothing is left behind and a file of that name stays as it was; a new one takes its mode and
    owner. What is no regular file (a device, a pipe) is written to as it is, never replaced; `-` is standard output.
    """
    if path == STANDARD_OUTPUT:
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.flush()
        return
    earlier = _status(path)
    if earlier is not None and not stat.S_ISREG(earlier.st_mode):
        with path.open("wb") as file:
            yield file
        return
    number, name = tempfile.mkstemp(prefix=f".{path.name[:MAX_STEM]}.", suffix=".partial", dir=path.parent)
    partial = Path(name)
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            _take_over(file.fileno(), earlier)
            if lasting:
                os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _status(path: Path) -> os.stat_result | None:
    """Return what there is under a name, its link followed, None where there is nothing."""
    try:
        return path.stat()
    except FileNotFoundError:
        return None


def _take_over(number: int, earlier: os.stat_result | None) -> None:
    """Give a new file the mode and owner of the one that it replaces, or the mode that the umask asks for."""
    if earlier is None:
        umask = os.umask(0)
        os.umask(umask)
        os.fchmod(number, 0o666 & ~umask)
        return
    os.fchmod(number, stat.S_IMODE(earlier.st_mode))
    with contextlib.suppress(PermissionError):  # only root may give a file away
        os.fchown(number, earlier.st_uid, earlier.st_gid)


def check_writable(path: Path) -> None:
    """Raise FileError unless a file of that name could be written, before the work that it is to hold."""
    if path == STANDARD_OUTPUT:
        return
    problem = ""
    try:
        if path.is_dir():
            problem = "a folder: give the name of a file"
        elif not path.parent.is_dir():
            problem = f"{path.parent} is no folder: make it first"
        elif not os.access(path if path.exists() else path.parent, os.W_OK):
            problem = "may not be written: give another place"
    except OSError as error:
        problem = str(error.strerror)
    if problem:
        raise FileError(f"{str(path)[:MAX_SHOWN_PATH]}: cannot be written: {problem}")


def check_folder(path: Path) -> None:
    """Raise FileError unless files could be written into a folder of that name, which need not be there."""
    there = next(each for each in (path, *path.absolute().parents) if each.exists())
    if not there.is_dir():
        raise FileError(f"{there}: a file, and a folder is needed: give another name")
    if not os.access(there, os.W_OK):
        raise FileError(f"{there}: may not be written: give another place")


def write_json(path: Path, value: Any, *, lasting: bool = True) -> None:
    """Write a value as indented JSON with a final newline, whole or not at all; NaN and infinity are a ValueError.

    `lasting` as in `whole_file`.
    """
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path, lasting=lasting) as file:
        file.write(f"{text}\n".encode())


AS_THEY_ARE = frozenset({str, int, bool, type(None)})
"""The types of values of which a report holds a million: each is looked up once, and needs no call."""


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it: a dataclass is an object, of its fields in order."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [each if type(each) in AS_THEY_ARE else plain(each) for each in value]
    if names := _names_of_fields(value.__class__):
        items = zip(names, [getattr(value, name) for name in names], strict=True)
        return {name: each if type(each) in AS_THEY_ARE else plain(each) for name, each in items}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return value


@functools.cache
def _names_of_fields(kind: type) -> tuple[str, ...]:
    """Return the names of the fields of a dataclass in order, none for another type."""
    return tuple(field.name for field in fields(kind)) if is_dataclass(kind) else ()


def parse_json(text: bytes) -> Any:
    """Parse UTF-8 JSON; a key given twice, what 64 bits cannot hold and any malformed text are a ValueError of a line.

    NaN, infinity, numbers that overflow to it, integers of more than MAX_DIGITS digits and half characters (lone
    surrogates, which no file or terminal takes) are malformed.
    """
    try:
        value = json.loads(
            text.decode(),
            object_pairs_hook=_unique_keys,
            parse_constant=_no_constant,
            parse_float=_finite,
            parse_int=_short,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if LONE_SURROGATE.search(text):
        json.dumps(value, ensure_ascii=False).encode()
    return value


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`, as strictly as `parse_json`; raises FileError."""
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise FileError(f"{path}: larger than {max_bytes} bytes, the most that is read")
        return parse_json(text)
    except OSError as error:
        raise FileError(f"{str(path)[:MAX_SHOWN_PATH]}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: not valid JSON: {error}") from None


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"key {key!a} is given twice")
        result[key] = value
    return result


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:MAX_DIGITS]} is larger than a number can be")
    return value


def _short(text: str) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
