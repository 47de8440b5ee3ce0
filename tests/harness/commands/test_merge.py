"""`merge`: what it makes of the shards of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main


def test_shards_of_a_run_are_judged_as_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    narrow = ("--case", "unequal/prefill/single_token.*", "--seed", "3", "--quiet")
    for number in ("1", "2"):
        kept = ("--shard", f"{number}/2", "--keep", str(tmp_path / number))
        assert main(["run", "--candidate", "numpy_float64", *narrow, *kept]) == 0
    capsys.readouterr()
    words = ["merge", str(tmp_path / "1"), str(tmp_path / "2"), "--quiet", "--junit", str(tmp_path / "run.xml")]
    assert main(words) == 0
    assert "pass (caches); 5 of 5 cases" in capsys.readouterr().out
    assert (tmp_path / "run.xml").is_file()


def test_a_folder_without_a_shard_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["merge", str(tmp_path)]) == 2
    assert "not a shard: write it with `run --shard I/N --keep " in capsys.readouterr().err
