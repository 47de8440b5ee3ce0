"""`run --baseline`: what an earlier run left is read, or refused, and later runs are compared with it."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.baselines import earlier_runs
from grok_conformance.harness.formats.files import FileError
from grok_conformance.harness.judging.baseline import write_baseline
from tests.harness.judging.kept_runs import OLD, STEADY

CASE = "stress/prefill/saturated_cap.float32"
GOOD = "from grok_conformance.candidates.numpy_float64 import INFO, load\n"
STORED = {"format": 1, **asdict(OLD)}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("baseline.json", '{"format": 1}'),
        ("baseline.json", "[1]"),
        ("baseline.json", "{"),
        ("baseline.json", json.dumps({**STORED, "format": 0})),
        ("baseline.json", json.dumps({**STORED, "surprise": 1})),
        ("baseline.json", json.dumps({**STORED, "status": "well"})),
        ("baseline.json", json.dumps({**STORED, "operations": {"logits float32": ["pass"]}})),
        ("baseline.json", json.dumps({**STORED, "seconds": {"one": "1"}})),
        ("history.jsonl", json.dumps(STEADY[0]) + "\n{"),
        ("history.jsonl", "[1]"),
        ("history.jsonl", json.dumps({**STEADY[0], "flagged": None})),
    ],
)
def test_a_file_that_holds_something_else_is_refused_in_one_line_until_it_is_written_again(
    name: str, text: str, tmp_path: Path
) -> None:
    write_baseline(tmp_path, OLD)
    (tmp_path / "port" / name).write_text(text)
    with pytest.raises(FileError) as caught:
        earlier_runs(tmp_path, ["port"], update=False)
    assert re.fullmatch(rf"{tmp_path}/port/{name}.*: write it again with --update-baseline", str(caught.value))
    assert earlier_runs(tmp_path, ["port"], update=True) == {
        "port": (None, ()) if name == "baseline.json" else (OLD, ())
    }


def test_the_first_run_is_the_baseline_and_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    port = tmp_path / "port.py"
    port.write_text(GOOD)
    command = ["run", "--case", CASE, "--candidate", str(port), "--quiet", "--baseline", str(tmp_path / "kept")]
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "this run is the baseline from now on, kept in " in said
    assert "against the baseline" not in said
    (stored,) = (tmp_path / "kept").glob("*/baseline.json")
    before = stored.read_bytes()
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "this run is the baseline" not in said
    assert "against the baseline: " in said
    assert stored.read_bytes() == before


def test_a_run_is_compared_with_the_baseline_which_only_an_explicit_wish_replaces(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    port = tmp_path / "port.py"
    port.write_text(GOOD)
    kept = tmp_path / "kept"
    command = ["run", "--case", CASE, "--candidate", str(port), "--quiet", "--baseline", str(kept)]
    assert main([*command, "--update-baseline"]) == 0
    (stored,) = kept.glob("*/baseline.json")
    before = stored.read_bytes()
    port.write_text(
        GOOD.replace("load\n", "load as load_right\n")
        + "def load(config, weights):\n"
        + "    name = 'transformer/decoder_layer_0/rms_norm_2/scale'\n"
        + "    return load_right(config, {**weights, name: 1 + weights[name]})\n"
    )
    capsys.readouterr()
    assert main(command) == 1
    output = capsys.readouterr().out
    assert "moved beyond fences: moe.norm" in output
    assert "look closer: the verdict was pass and is fail" in output
    assert stored.read_bytes() == before
    (history,) = kept.glob("*/history.jsonl")
    assert [json.loads(each)["status"] for each in history.read_text().splitlines()] == ["pass", "fail"]
    assert main([*command, "--update-baseline"]) == 1
    assert stored.read_bytes() != before


def test_updating_without_a_folder_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--update-baseline"]) == 2
    assert "--update-baseline needs --baseline DIR" in capsys.readouterr().err
