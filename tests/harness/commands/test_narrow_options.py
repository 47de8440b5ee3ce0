"""A run narrowed, dumped, repeated and watched from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands import BROKEN, NONCONFORMING, PASS
from grok_conformance.harness.commands.narrow_options import LAST_FAILED
from grok_conformance.harness.formats.tensors import open_tensors
from tests.harness.wrong_port import SOURCE

CASE = ("--case", "unequal/prefill/*.float32")


@pytest.fixture(autouse=True)
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_port.py").write_text(SOURCE)


def test_what_failed_is_dumped_and_what_fails_again_is_all_that_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--candidate", "my_port.py", *CASE, "--dump", "dump"]) == NONCONFORMING
    assert set(open_tensors(Path("dump/my_port.py/moe.norm.float32.safetensors"))) >= {"observed", "exact", "fence"}
    assert "safe_open('dump/my_port.py/moe.norm.float32.safetensors'" in capsys.readouterr().out
    assert main(["run", "--last-failed"]) == NONCONFORMING
    said = capsys.readouterr().out
    assert "fail, of moe.norm alone; 0 of 3 cases" in said
    assert "likely norm_scale_plus_one at moe.norm" in said


def test_the_layers_of_the_last_run_are_those_of_the_next_and_of_the_command_that_is_told(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["run", "--candidate", "my_port.py", *CASE, "--operation", "moe.norm", "--layer", "0"]
    monkeypatch.setattr("sys.argv", ["/x/grok_conformance/__main__.py", *words])
    assert main(words) == NONCONFORMING
    assert "--operation moe.norm --layer 0\n" in capsys.readouterr().out
    assert main(["run", "--last-failed"]) == NONCONFORMING
    assert "fail, of moe.norm in layer 0 alone" in capsys.readouterr().out


@pytest.mark.parametrize("kept", [{"a": {"b": []}}, {"layers": ["1"], "failed": {}}, {"layers": [1], "failed": []}])
def test_what_no_run_left_is_refused(kept: object, capsys: pytest.CaptureFixture[str]) -> None:
    LAST_FAILED.parent.mkdir()
    LAST_FAILED.write_text(json.dumps(kept))
    assert main(["run", "--last-failed"]) == BROKEN
    assert "last_failed.json: not what an earlier run left: remove it" in capsys.readouterr().err


def test_the_printed_snippet_loads_what_was_dumped(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("safetensors")
    main(["run", "--candidate", "my_port.py", *CASE, "--operation", "moe.norm", "--dump", "dump", "--in-process"])
    lines = capsys.readouterr().out.splitlines()
    begin = next(i for i, line in enumerate(lines) if line == "import numpy as np")
    snippet = lines[begin : next(i for i, line in enumerate(lines) if line.startswith('print("the first at"')) + 1]
    assert len(snippet) <= 10
    ran = subprocess.run([sys.executable, "-c", "\n".join(snippet)], capture_output=True, text=True, check=True)  # noqa: S603
    assert "values are beyond their fences" in ran.stdout


def test_exitfirst_stops_in_this_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--candidate", "my_port.py", *CASE, "--operation", "moe.*", "--exitfirst"]) == NONCONFORMING
    assert "0 of 1 case;" in capsys.readouterr().out


def test_a_narrowed_pass_says_what_it_is_a_pass_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--candidate", "my_port.py", *CASE, "--operation", "moe.*", "--layer", "1"]) == PASS
    assert "pass, of moe.* in layer 1 alone" in capsys.readouterr().out


def test_what_a_port_raises_in_this_process_is_shown_where_it_was_raised(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my_port.py").write_text(SOURCE.replace("1 + weights[name]", "1 / 0"))
    assert main(["run", "--candidate", "my_port.py", *CASE, "--in-process"]) == NONCONFORMING
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said
    assert "my_port.py" in said
    assert "in_process.py" not in said


def test_a_run_that_passed_leaves_nothing_to_repeat(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--candidate", "numpy_float64", *CASE, "--operation", "moe.norm"]) == PASS
    assert not Path(".grok_conformance_cache").exists()
    assert main(["run", "--last-failed"]) == BROKEN
    assert "no run in this folder has failed yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--operation", "moe.nrom"], "did you mean moe.norm"),
        (["--layer", "9"], "the cases have layers 0 to"),
        (["--operation", "moe.norm", "--baseline", "runs"], "--baseline asks for a whole run"),
        (["--operation", "moe.norm", "--require", "my_port.py:logits"], "--require asks for a whole run"),
        (["--in-process", "--keep", "kept"], "--keep keeps job and answer folders"),
        (["--watch", "nope.py"], "--watch nope.py: no such file"),
    ],
)
def test_options_that_make_no_sense_are_one_line(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--candidate", "my_port.py", *CASE, *words]) == BROKEN
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1


def test_a_cache_that_is_broken_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path(".grok_conformance_cache").mkdir()
    Path(".grok_conformance_cache/last_failed.json").write_text(json.dumps({})[:-1])
    assert main(["run", "--last-failed"]) == BROKEN
    assert "not valid JSON" in capsys.readouterr().err
