"""Files written whole or not at all, and JSON read strictly."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

MAX_JSON_BYTES = 16 * 2**20

MAX_REPORT_BYTES = 2**30
"""The most that is read of what holds figures of every tap of every case."""


class FileError(ValueError):
    """A file that does not hold what it should; the message is one line that names the file."""


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the name `path` only once it is complete and on disk.

    If the block raises, nothing is left behind and a file of that name stays as it was.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.unlink(missing_ok=True)
    try:
        with partial.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON with a final newline, whole or not at all; NaN and infinity are a ValueError."""
    text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
    with whole_file(path) as file:
        file.write(f"{text}\n".encode())


def plain(value: Any) -> Any:
    """Return a value as JSON can hold it."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return value


def parse_json(text: bytes) -> Any:
    """Parse UTF-8 JSON; a key given twice, NaN, infinity and any malformed text are a ValueError of one line."""
    try:
        return json.loads(text.decode(), object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def read_json(path: Path, max_bytes: int = MAX_JSON_BYTES) -> Any:
    """Read a JSON file of at most `max_bytes`, as strictly as `parse_json`; raises FileError."""
    try:
        with path.open("rb") as file:
            text = file.read(max_bytes + 1)
        if len(text) > max_bytes:
            raise FileError(f"{path}: larger than {max_bytes} bytes, the most that is read")
        return parse_json(text)
    except OSError as error:
        raise FileError(f"{path}: cannot be read: {error.strerror}") from None
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


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
