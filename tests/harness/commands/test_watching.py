"""A watched file: its port is judged again when it changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grok_conformance.harness.commands import PASS
from grok_conformance.harness.commands.watching import without_watch
from grok_conformance.harness.contract import GOLDEN_DIR
from tests.harness.wrong_port import SOURCE

CASE = ("--case", "unequal/prefill/*.float32")


@pytest.fixture(autouse=True)
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my_port.py").write_text(SOURCE)


def test_a_watched_file_is_judged_again_when_it_changes() -> None:
    words = ["run", "--candidate", "my_port.py", *CASE, "--operation", "moe.norm", "--quiet", "--watch", "my_port.py"]
    environment = {**os.environ, "PYTHONPATH": str(GOLDEN_DIR.parent)}
    command = [sys.executable, "-m", "grok_conformance", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:  # noqa: S603
        assert process.stdout is not None
        lines = iter(process.stdout)
        verdicts = [next(lines)]
        assert "waiting for my_port.py" in next(lines)
        time.sleep(0.05)
        Path("my_port.py").write_text(SOURCE.replace("1 + weights", "weights"))
        verdicts.append(next(lines))
        assert "waiting for my_port.py" in next(lines)
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == PASS
    assert ["fail" in verdicts[0], "pass" in verdicts[1]] == [True, True], verdicts


def test_a_watched_command_is_run_without_watching() -> None:
    words = ["run", "--watch", "a.py", "--case", "x", "--watch=b.py"]
    assert without_watch(words) == ["run", "--case", "x"]
