"""Wrong usages, each answered in one clear line: what was wrong, where, and the cure."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import grok_conformance as gc
from grok_conformance.candidates import numpy_float64
from grok_conformance.harness.__main__ import main
from grok_conformance.harness.commands.narrow_options import LAST_FAILED
from grok_conformance.harness.contract.tap_map import shown_taps
from grok_conformance.harness.running.python_runner import as_array
from tests.harness.wrong_port import CASE, SOURCE

PORT = ("run", "--candidate", "my_port.py", "--case", CASE)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_port.py").write_text(SOURCE)
    (tmp_path / "no_program").write_text("text")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "file").write_text("mine")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "other.toml").write_text("[[waiver]]\n")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "--candidate", "./nope.py"], "./nope.py: no such file"),
        (["run", "--candidate", "nope.py"], "nope.py: no such file: give the path of the port"),
        (
            ["run", "--endpoint", "http://127.0.0.1:9"],
            "--endpoint http://127.0.0.1:9: Connection refused: is the server",
        ),
        (["run", "--endpoint", "not-a-url"], "--endpoint not-a-url: no address: give one such as http://"),
        (["run", "--endpoint", "http://:x"], "--endpoint http://:x: no address"),
        ([*PORT, "--baseline", "my_port.py"], "my_port.py: a file, and a folder is needed"),
        ([*PORT, "--dump", "my_port.py/tensors"], "my_port.py: a file, and a folder is needed"),
        (["run", "--candidate", "torch_eagr"], "did you mean torch_eager"),
        (["run", "--candidate", "no_program"], "chmod +x no_program"),
        (["run", "--candidate", "my_port.py", "--case", "unequl/*"], "no case 'unequl/*'"),
        ([*PORT, "--case", "unequl/*"], "no case 'unequl/*'"),
        ([*PORT, "--operation", "moe.expert_hiden"], "did you mean moe.expert_hidden"),
        ([*PORT, "--layer", "64"], "the cases have layers 0 to"),
        ([*PORT, "--dtype", "bfloat16"], "computes in bfloat16"),
        ([*PORT, "--last-failed"], "no run in this folder has failed yet"),
        ([*PORT, "--watch", "nope.py"], "--watch nope.py: no such file"),
        ([*PORT, "--keep", "taken"], "taken: exists already: give a new folder"),
        ([*PORT, "--operation", "logits", "--baseline", "runs"], "--baseline asks for a whole run"),
        ([*PORT, "--layer", "0", "--require", "my_port.py:logits"], "--require asks for a whole run"),
        ([*PORT, "--exitfirst", "--require", "my_port.py:logits"], "--exitfirst cuts it short"),
        ([*PORT, "--pdb", "--keep", "kept"], "--keep keeps job and answer folders"),
        (["run", "--in-process"], "need --candidate NAME"),
        ([*PORT, "--shard", "1/2"], "--shard needs --keep DIR"),
        ([*PORT, "--shard", "1/2", "--operation", "logits"], "--operation does not go with --shard"),
        ([*PORT, "--shard", "1/99", "--keep", "kept", "--seed", "1"], "each shard needs one: use fewer"),
        ([*PORT, "--reuse", "--layer", "0"], "--layer needs answers of its own, and --reuse keeps whole verdicts"),
        ([*PORT, "--fresh", "--last-failed"], "--last-failed needs answers of its own, and --fresh"),
        (["run", "--candidate", "my_port.py", "--reuse", "--properties"], "--reuse: the laws make no use of it"),
        ([*PORT, "--update-baseline"], "--update-baseline needs --baseline DIR"),
        ([*PORT, "--golden", "nowhere"], "nowhere: no such folder"),
        ([*PORT, "--waivers", "nowhere.toml"], "nowhere.toml"),
        ([*PORT, "--properties"], "--case: the laws make no use of it"),
        (["judge", "nowhere", "taken"], "nowhere: no job folder, nor several: `write-jobs` makes them"),
        (["merge", "nowhere"], "nowhere: not a shard: write it with `run --shard I/N --keep nowhere`"),
        ([*PORT, "--waivers", "other.toml"], "other.toml: no table 'waiver'; there are deviation, unsupported"),
        (["report", "nowhere.json", "--html", "page.html"], "nowhere.json: cannot be read"),
        (["report", "broken.json", "--html", "page.html"], "broken.json: not valid JSON"),
        (["compare", "nowhere.safetensors", "nowhere.safetensors"], "nowhere.safetensors"),
        (["diff", "broken.json", "broken.json"], "broken.json"),
        (["explain", "gelu_erv"], "did you mean gelu_erf"),
        (["list", "cases", "nothing/*"], "no case 'nothing/*'"),
        (["new-candidate", "my-port"], "not a name of a Python module"),
        (["new-candidate", "my_port"], "my_port.py: exists already"),
        (["check-golden", "nowhere"], "nowhere: no such folder"),
    ],
)
def test_a_wrong_command_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1, said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*PORT, "--seed", "-3"], "'-3' is no seed: give a whole number of 0 or more"),
        (["write-jobs", "jobs", "--seed", "1.5"], "'1.5' is no seed"),
        (["properties", "--candidate", "my_port.py", "--seed", "-1"], "'-1' is no seed"),
        ([*PORT, "--dtype", "float16"], "invalid choice: 'float16'"),
        ([*PORT, "--shard", "3/2"], "'3/2' is not I/N"),
        ([*PORT, "--time-limit", "0"], "'0' is no number of seconds above 0"),
        (["run", "--cases", "x"], "did you mean --case"),
        (["run", "--candidat=x", "--nosuchflag"], "no option or argument '--nosuchflag'"),
        (["explain", "gelu_erf", "--verbose"], "no option or argument '--verbose'"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(words)
    said = capsys.readouterr().err
    assert message in said
    assert len(said.splitlines()) == 1, said


def test_what_cannot_be_read_of_the_last_run_is_to_be_removed(capsys: pytest.CaptureFixture[str]) -> None:
    LAST_FAILED.parent.mkdir()
    LAST_FAILED.write_text("{")
    assert main([*PORT, "--last-failed"]) == 2
    assert "remove it" in capsys.readouterr().err


def returning(value: Any) -> SimpleNamespace:
    """Return a port whose prefill returns a value, whatever it is asked."""
    return adapter(load=lambda _config, _weights: SimpleNamespace(prefill=lambda *_arguments: value))


def adapter(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"INFO": numpy_float64.INFO, "load": numpy_float64.load, **attributes})


@pytest.mark.parametrize(
    ("candidate", "message"),
    [
        (42, "42 is no candidate: give a name, a module"),
        (numpy_float64.load, "needs taps="),
        (SimpleNamespace(INFO=numpy_float64.INFO), "must have INFO = CandidateInfo(…) and load(config, weights)"),
        (adapter(INFO="my_port"), "must have INFO = CandidateInfo(…)"),
        (adapter(INFO=replace(numpy_float64.INFO, taps="logits")), "write taps=('logits',)"),  # type: ignore[arg-type]
        (adapter(INFO=replace(numpy_float64.INFO, fprop_dtypes="float32")), "write fprop_dtypes=('float32',)"),  # type: ignore[arg-type]
        (adapter(INFO=replace(numpy_float64.INFO, fprop_dtypes=("bf16",))), "no compute dtype 'bf16'"),
        (adapter(load=lambda _config, _weights: None), "end it with `return model`"),
        (returning(None), "prefill returned NoneType, expected {tap: array}"),
        (returning([1, 2]), "prefill returned list, expected {tap: array}"),
        (returning({"logits": None}), "logits: NoneType is no array"),
        (returning({"logits": [[1], [1, 2]]}), "rows of unequal lengths are no array: pad them"),
    ],
)
def test_a_wrong_adapter_is_told_what_to_write(candidate: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        gc.judge(candidate, CASE)
    assert message in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_model_or_no_tap_map_is_told() -> None:
    row = gc.TapSource("logits", engine="output", axes="b t v")
    with pytest.raises(TypeError, match=r"load\(config, weights\) returned int, which has no prefill\(\)"):
        gc.judge(SimpleNamespace(INFO=numpy_float64.INFO, load=lambda _config, _weights: 3), CASE)
    for taps in ("logits", ("logits", row)):
        with pytest.raises(TypeError, match=r"taps= takes rows of a tap map: give \(TapSource\("):
            gc.judge(lambda _config, _weights: None, CASE, taps=taps)  # type: ignore[arg-type]


def test_a_frame_needs_pandas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="needs pandas: pip install pandas"):
        gc.judge(numpy_float64, CASE, operations="moe.norm").to_frame()


def test_a_tap_claimed_twice_or_unknown_is_told() -> None:
    row = gc.TapSource("logits", engine="output", axes="b t v")
    with pytest.raises(ValueError, match="logits is claimed by 2 rows"):
        shown_taps([row, row])
    with pytest.raises(ValueError, match="logts is no tap"):
        shown_taps([replace(row, tap="logts")])


def test_a_torch_tensor_in_bfloat16_is_taken_as_it_is() -> None:
    torch = pytest.importorskip("torch")
    x = as_array("prefill: logits", torch.tensor([1.5, -2.0], dtype=torch.bfloat16))
    assert str(x.dtype) == "bfloat16"
    np.testing.assert_array_equal(x.astype(np.float32), [1.5, -2.0])
