"""Parsed JSON as the values that it was written from: the way back from `formats.files.plain`."""

from __future__ import annotations

import functools
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")

Reader = Callable[[Any], Any]
"""Returns parsed JSON as a value of one type; raises ValueError for what is none."""

NUMBERS: Mapping[str, float] = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""What JSON holds only as a string."""


def typed(kind: type[T], value: Any) -> T:
    """Return parsed JSON as a value of a dataclass that `plain` made it from; raises ValueError for anything else."""
    return cast("T", reader_of(cast("Any", kind))(value))


@functools.cache
def reader_of(kind: Any) -> Reader:
    """Return what reads values of a type; raises TypeError for a type that no verdict has."""
    if is_dataclass(kind):
        return _dataclass_reader(cast("type[Any]", kind))
    if kind is float:
        return _read_number
    if kind in {str, int, bool, types.NoneType}:
        return functools.partial(_read_plain, kind)
    return _generic_reader(kind, get_origin(kind), get_args(kind))


def _generic_reader(kind: Any, origin: Any, arguments: tuple[Any, ...]) -> Reader:
    if origin is Literal:
        return functools.partial(_read_literal, frozenset(arguments))
    if origin is tuple and arguments[1:] == (...,):
        return functools.partial(_read_tuple, reader_of(arguments[0]))
    if origin is Mapping and arguments[0] is str:
        return functools.partial(_read_mapping, reader_of(arguments[1]))
    if origin in {types.UnionType, Union} and arguments[1:] == (types.NoneType,):
        return functools.partial(_read_optional, reader_of(arguments[0]))
    raise TypeError(f"{kind} is not read from JSON")


def unexpected(value: Any, expected: str) -> ValueError:
    """Return what is raised for JSON that is not what it should be."""
    return ValueError(f"{type(value).__name__}, expected {expected}")


def _dataclass_reader(kind: type[Any]) -> Reader:
    hints = get_type_hints(kind)
    readers = {field.name: reader_of(hints[field.name]) for field in fields(kind)}

    def read(value: Any) -> Any:
        if not isinstance(value, dict) or value.keys() != readers.keys():
            raise unexpected(value, kind.__name__)
        return kind(**{name: reader(value[name]) for name, reader in readers.items()})

    return read


def _read_plain(kind: type[Any], value: Any) -> Any:
    if type(value) is not kind:
        raise unexpected(value, kind.__name__)
    return value


def _read_number(value: Any) -> Any:
    if type(value) in {float, int}:
        return value
    if isinstance(value, str) and value in NUMBERS:
        return NUMBERS[value]
    raise unexpected(value, "a number")


def _read_literal(allowed: frozenset[Any], value: Any) -> Any:
    if not isinstance(value, str) or value not in allowed:
        raise unexpected(value, f"one of {', '.join(sorted(allowed))}")
    return value


def _read_tuple(reader: Reader, value: Any) -> Any:
    if not isinstance(value, list):
        raise unexpected(value, "a list")
    return tuple(map(reader, value))


def _read_mapping(reader: Reader, value: Any) -> Any:
    if not isinstance(value, dict):
        raise unexpected(value, "an object")
    return {name: reader(each) for name, each in value.items()}


def _read_optional(reader: Reader, value: Any) -> Any:
    return None if value is None else reader(value)
