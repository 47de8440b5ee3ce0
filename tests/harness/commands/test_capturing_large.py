"""What the options of a large capture mean, and what is wrong with them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.capturing_large import choose_rows, describe, draw_prompt, read_prompt
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.large.capture import Estimate
from tests.harness.large.tiny_capture import CONFIG


def test_rows_are_positions_of_the_first_call() -> None:
    assert choose_rows(None, 64) == (0, 21, 42, 63)
    assert choose_rows(None, 2) == (0, 1)
    assert choose_rows("5,0,5", 6) == (0, 5)
    for text in ("6", "-1", "1;2", ""):
        with pytest.raises(FileError, match="--rows"):
            choose_rows(text, 6)


def test_the_default_prompt_is_seeded_and_has_no_pads() -> None:
    config = replace(CONFIG, vocab_size=131_072)
    drawn = draw_prompt(config)
    np.testing.assert_array_equal(drawn, draw_prompt(config))
    assert drawn.shape == (1, 64)
    assert drawn.dtype == np.int32
    assert drawn.min() > config.pad_token
    assert 65_536 < drawn.max() < 131_072


@pytest.mark.parametrize("rows", [[], [[]], [[1], [1, 2]], [["1"]], [[1.0]], [[True]], {"a": 1}])
def test_a_prompt_that_is_not_rows_of_ids_is_refused(rows: object, tmp_path: Path) -> None:
    (tmp_path / "prompt.json").write_text(json.dumps(rows))
    with pytest.raises(FileError, match="rows of token ids of equal length"):
        read_prompt(tmp_path / "prompt.json")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--checkpoint needs --config"),
        (["--config", "small"], "--checkpoint needs --out"),
        (["--config", "large", "--out", "out"], "no preset 'large': there are grok-1"),
        (["--config", "small", "--out", "out"], "no checkpoint here"),
    ],
)
def test_wrong_usage_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["capture", "--checkpoint", str(tmp_path), *options]) == 2
    assert message in capsys.readouterr().err


def test_an_estimate_tells_bytes_memory_disk_and_time() -> None:
    text = describe(Estimate(318_240_000_000, 210_000_000, 62_400_000_000, 3_020_000_000, 221.0))
    for figure in ("reads 318.24 GB", "writes 0.21 GB (62.40 GB are free)", "holds 3.02 GB", "3.7 minutes"):
        assert figure in text
