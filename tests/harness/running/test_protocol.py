"""The worked example of `harness/PROTOCOL.md` is a job and an answer that the harness reads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from grok_conformance.harness.formats.tensors import write_tensors
from grok_conformance.harness.running import jobs, python_runner
from grok_conformance.harness.running.answers import read_answer
from tests.harness.tiny_job import PRESET, call, case

PROTOCOL = (Path(jobs.__file__).parents[1] / "PROTOCOL.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", PROTOCOL, re.DOTALL)


def test_the_session_shown_is_what_the_commands_print(tmp_path: Path) -> None:
    """Run every line after a `$` in a folder with the candidates beside it, and compare what it prints."""
    (session,) = blocks("sh")
    root = Path(jobs.__file__).resolve().parents[2]
    (tmp_path / "candidates").symlink_to(root / "candidates")
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(root)}
    commands = re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE)
    assert len(commands) == 5
    for command, shown in commands:
        ran = subprocess.run(  # noqa: S602 - the commands are our own
            command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        assert ran.stdout == shown


def test_the_example_is_a_job_and_its_answer_is_read(tmp_path: Path) -> None:
    description, info, result = blocks("json")
    (tmp_path / "job.json").write_text(description)
    job = jobs.read_job(tmp_path)
    (row,) = job.cases
    (tmp_path / row.folder).mkdir()
    (tmp_path / "info.json").write_text(info)
    (tmp_path / row.folder / "result.json").write_text(result)
    write_tensors(tmp_path / row.folder / "taps.safetensors", {"call0/logits": np.zeros(1, np.float32)})
    answer = read_answer(tmp_path, job)[row.id]
    assert answer.status == "answered"
    assert answer.seconds == 0.41
    assert answer.info is not None
    assert answer.info.dtypes == {"*.kv.*": "float16"}


def test_the_example_of_a_job_is_what_the_harness_would_write(tmp_path: Path) -> None:
    asked = case("tiny/decode/after_prefill", call("prefill", [1]), call("decode", [2]))
    job = jobs.write_job(tmp_path, "1.0.0", PRESET, [asked], ("embedding", "*.kv.keys", "logits"))
    written = (tmp_path / "job.json").read_text()
    assert "".join(written.split()) == "".join(blocks("json")[0].split())
    assert job.cases


def test_the_example_of_a_python_module_answers_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (source,) = blocks("python")
    (tmp_path / "example.py").write_text(source)
    asked = case("tiny/a", call("prefill", [1, 2]), call("decode", [3]))
    job = jobs.write_job(tmp_path / "job", "1.0.0", PRESET, [asked], ("logits",))
    assert python_runner.main(str(tmp_path / "example.py"), tmp_path / "job", tmp_path / "out") == 0
    answer = read_answer(tmp_path / "out", job)["tiny/a"]
    assert answer.status == "answered"
    assert answer.taps["call0/logits"].shape == (1, 2, PRESET.config.vocab_size)
