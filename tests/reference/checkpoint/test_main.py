from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from grok_conformance.reference import checkpoint
from grok_conformance.reference.checkpoint import __main__ as command
from grok_conformance.reference.config import PRESETS
from tests.reference.checkpoint.hostile_pickles import DECOY, HOSTILE
from tests.reference.checkpoint.tiny_checkpoints import CONFIG, all_bits


@pytest.fixture(autouse=True)
def _tiny_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "PRESETS", {**PRESETS, "tiny": CONFIG})


def test_inspect_prints_every_file_with_parameter_size_and_content(
    written: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["inspect", str(written)]) == 0
    *rows, total = capsys.readouterr().out.splitlines()
    assert len(rows) == 146
    parameter = "transformer/decoder_layer_10/moe/linear/w"
    num_bytes = f"{(written / 'tensor00026_000').stat().st_size:,}"
    content = "int8 [5, 48, 128] with bfloat16 scales [5, 1, 128]"
    assert rows[26].split(maxsplit=3) == ["tensor00026_000", parameter, num_bytes, content]
    assert total.startswith("146 leaves, ")
    assert total.endswith(" bytes, with index")


def test_inspect_names_the_parameters_without_an_index_only_if_it_is_given_the_config(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "index.json").unlink()
    assert command.main(["inspect", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines()[0].split("  ")[1] == command.UNKNOWN
    assert command.main(["inspect", str(folder), "--config", "tiny"]) == 0
    output = capsys.readouterr().out.splitlines()
    assert output[0].split()[1] == "language_model/in_out_embed/embeddings"
    assert output[-1].endswith("without index")


def test_inspect_with_another_config_fails_in_one_line(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["inspect", str(written), "--config", "small"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith(f"{written}/")


def test_inspect_verify_finds_a_flipped_bit(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["inspect", str(folder), "--verify"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "every file has the sha256 of the index"
    path = folder / "tensor00026_000"
    content = bytearray(path.read_bytes())
    content[20_000] ^= 1
    path.write_bytes(content)
    assert command.main(["inspect", str(folder), "--verify"]) == 2
    assert capsys.readouterr().err.startswith(f"{path}: not the sha256 in index.json")


def test_inspect_verify_without_an_index_fails(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "index.json").unlink()
    assert command.main(["inspect", str(folder), "--verify"]) == 2
    assert "no index.json to verify the files with" in capsys.readouterr().err


def test_convert_there_and_back(written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(tmp_path / "model.safetensors")
    assert command.main(["convert", str(written), file, "--config", "tiny"]) == 0
    assert command.main(["convert", file, str(tmp_path / "back"), "--config", "tiny"]) == 0
    assert capsys.readouterr().err == ""  # no bar where nobody watches
    assert all_bits(checkpoint.load(tmp_path / "back", CONFIG)) == all_bits(checkpoint.load(written, CONFIG))


def test_synthesize_writes_a_checkpoint_that_inspect_accepts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--config", "tiny", "--distinct-layers", "3", "--seed", "7"]
    assert command.main(["synthesize", str(tmp_path), *options]) == 0
    assert capsys.readouterr().err == ""  # no bar where nobody watches
    assert command.main(["inspect", str(tmp_path), "--config", "tiny", "--verify"]) == 0


def test_synthesize_overwrites_nothing(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted((path.name, path.stat().st_mtime_ns) for path in written.iterdir())
    assert command.main(["synthesize", str(written.parent), "--config", "tiny"]) == 2
    assert f"{written}: exists already and is never overwritten" in capsys.readouterr().err
    assert sorted((path.name, path.stat().st_mtime_ns) for path in written.iterdir()) == before


@pytest.mark.parametrize("arguments", [[], ["inspect"], ["unknown"], ["convert", "a", "b"], ["synthesize", "a"]])
def test_wrong_command_line_exits_2(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        command.main(arguments)
    assert caught.value.code == 2


def test_command_line_refuses_a_hostile_file_in_one_line_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "tensor00000_000").write_bytes(HOSTILE["os.system"])
    child = subprocess.run(  # noqa: S603 - our own command line
        [sys.executable, "-m", "grok_conformance.reference.checkpoint", "inspect", str(tmp_path)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert child.returncode == 2
    assert child.stdout == ""
    assert child.stderr == (
        f"{tmp_path}/tensor00000_000: global 'os' 'system' is not allowed:"
        " a leaf is NumPy arrays and QuantizedWeight8bit\n"
    )
    assert not (tmp_path / DECOY).exists()
