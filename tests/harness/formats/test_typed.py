"""What `plain` makes of a value is read back as that value, and nothing else is."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from grok_conformance.harness.formats.files import plain
from grok_conformance.harness.formats.typed import reader_of, typed


@dataclass(frozen=True)
class Inner:
    size: float
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outer:
    count: int
    is_whole: bool
    kind: Literal["one", "two"]
    inner: Inner
    several: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    by_name: Mapping[str, float] = field(default_factory=dict)


VALUE = Outer(1, True, "two", Inner(0.5, ("a", "b")), (Inner(math.inf), Inner(2)), None, {"x": -math.inf})  # noqa: FBT003


def as_read(value: Any) -> Any:
    return json.loads(json.dumps(plain(value)))


def test_a_value_is_read_as_it_was_written() -> None:
    assert typed(Outer, as_read(VALUE)) == VALUE
    assert math.isnan(typed(Inner, as_read(Inner(math.nan))).size)


@pytest.mark.parametrize(
    "changed",
    [
        {"count": "1"},
        {"count": True},
        {"is_whole": 1},
        {"kind": "three"},
        {"kind": 1},
        {"inner": None},
        {"inner": {"size": 1.0}},
        {"inner": {"size": "large", "names": []}},
        {"inner": {"size": 1.0, "names": "ab"}},
        {"inner": {"size": 1.0, "names": [1]}},
        {"several": {}},
        {"maybe": 3},
        {"by_name": {"x": "y"}},
        {"by_name": []},
        {"surprise": 1},
    ],
)
def test_anything_else_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="expected"):
        typed(Outer, as_read(VALUE) | changed)


def test_a_field_that_is_missing_is_refused() -> None:
    value = as_read(VALUE)
    del value["maybe"]
    with pytest.raises(ValueError, match="dict, expected Outer"):
        typed(Outer, value)


def test_a_type_that_no_reader_is_written_for_is_told_at_once() -> None:
    with pytest.raises(TypeError, match="is not read from JSON"):
        reader_of(set[int])
