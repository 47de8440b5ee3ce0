"""`export`: a preset as the checkpoint that an engine loads."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main


def test_a_golden_preset_is_written_as_a_folder_of_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "unequal"
    assert main(["export", "unequal", str(out), "--format", "hf", "--precision", "float32"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert {path.name for path in out.iterdir()} >= {"config.json", "model.safetensors"}


def test_an_unknown_preset_is_one_line_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", "unequall", str(tmp_path / "out"), "--format", "hf"]) == 2
    assert "unequall" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
