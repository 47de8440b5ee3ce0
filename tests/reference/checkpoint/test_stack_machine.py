"""The stack machine builds inert stand-ins from the opcodes that it knows, and refuses every other by name."""

from __future__ import annotations

import io
import pickle

import pytest

from grok_conformance.reference.checkpoint.stack_machine import Interpreter, Refused, opcode_name


def run(data: bytes) -> object:
    return Interpreter(io.BytesIO(data), len(data)).run()


@pytest.mark.parametrize("value", [("a", 1, None, True), {"b": (2, 300, 70_000), "c": False}, ()])
def test_plain_values_are_built_as_pickle_would(value: object) -> None:
    assert run(pickle.dumps(value, protocol=4)) == value


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (pickle.dumps([1], protocol=4), "EMPTY_LIST at byte"),
        (pickle.dumps(1, protocol=2), "not a pickle of protocol 4"),
        (pickle.dumps(print, protocol=4), "is not allowed|names"),
        (pickle.dumps(("a", "b"), protocol=4)[:-4], "truncated|byte"),
        (pickle.dumps("a", protocol=4) + b"more", "byte"),
    ],
    ids=["list", "protocol", "global", "truncated", "trailing"],
)
def test_anything_else_is_refused_and_nothing_is_called(data: bytes, problem: str) -> None:
    with pytest.raises(Refused, match=problem):
        run(data)


def test_opcodes_are_told_by_name_or_by_their_byte() -> None:
    assert opcode_name(b"R") == "REDUCE"
    assert opcode_name(b"\xff") == "0xff"
