"""What a candidate says of itself: read whole, or refused with the field that is wrong."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.running.info import MAX_LINE, one_line, read_info

INFO = {"name": "a port", "version": "1", "taps": ["logits"]}


def written(folder: Path, info: dict[str, Any]) -> Path:
    path = folder / "info.json"
    path.write_text(json.dumps(info))
    return path


def test_what_is_declared_to_be_quantised_is_read(tmp_path: Path) -> None:
    quantised = {"*.kv.*": "int8", "*.moe.expert_output": "fp8"}
    assert read_info(written(tmp_path, INFO | {"quantised": quantised})).quantised == quantised
    assert read_info(written(tmp_path, INFO)).quantised == {}


@pytest.mark.parametrize(
    ("quantised", "told"),
    [
        ({"*.kv.*": "int4"}, "quantised must map globs of taps to int8, int8_block32, fp8, fp8_unscaled"),
        (["*.kv.*"], "quantised must map globs of taps to"),
        ({"*.kv.keyz": "int8"}, "no tap"),
    ],
)
def test_what_cannot_be_quantised_so_is_refused(tmp_path: Path, quantised: Any, told: str) -> None:
    with pytest.raises(FileError, match=told.replace("*", r"\*")):
        read_info(written(tmp_path, INFO | {"quantised": quantised}))


def test_a_file_that_was_not_written_is_told_with_what_it_should_hold() -> None:
    with pytest.raises(FileError, match="was not written"):
        read_info(None)


def test_a_text_is_one_line_and_no_longer_than_is_read() -> None:
    assert one_line("a\nb") == "a b"
    assert len(one_line("x" * 10 * MAX_LINE)) == len("…") + MAX_LINE
