"""A watched file: its port is judged again when it changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

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


class Watching:
    """A watching command; what it writes is read up to where it waits again."""

    def __init__(self, *words: str) -> None:
        words = ("run", "--candidate", "my_port.py", *CASE, "--operation", "moe.norm", *words)
        environment = {**os.environ, "PYTHONPATH": str(GOLDEN_DIR.parent)}
        command = [sys.executable, "-m", "grok_conformance", *words, "--quiet", "--watch", "my_port.py"]
        self.process = subprocess.Popen(  # noqa: S603 - our own command
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
        )

    def told(self) -> str:
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            lines.append(line)
            if "waiting for my_port.py" in line:
                return "".join(lines)
        raise AssertionError(lines)

    def saved(self, source: str) -> str:
        time.sleep(0.05)
        Path("my_port.py").write_text(source)
        return self.told()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGINT)
        with self.process:
            assert self.process.wait(20) == PASS


def test_a_watched_file_is_judged_again_when_it_changes_in_a_fork_of_one_process() -> None:
    who = "import os\nprint('in a fork of', os.getppid())\n"
    with Watching() as watching:
        assert "fail" in watching.told()
        for source, verdict in ((SOURCE.replace("1 + weights", "weights"), "pass"), (SOURCE, "fail")):
            told = watching.saved(who + source)
            assert f"in a fork of {watching.process.pid}\n" in told
            assert f": {verdict}, of moe.norm alone" in told


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("def load(:\n", "SyntaxError"),
        ("import os\nos.abort()\n", "error: ended by signal 6, Aborted"),
        ("import time\ntime.sleep(99)\n", 'my_port.py", line 2 in <module>'),
        ("import sys\nsys.exit(3)\n", "waiting"),
    ],
)
def test_whatever_a_port_does_it_is_judged_again_at_the_next_save(source: str, says: str) -> None:
    Path("my_port.py").write_text(source)
    with Watching("--time-limit", "2") as watching:
        assert says in watching.told()
        assert "fail" in watching.saved(SOURCE)


def test_an_engine_is_imported_once_for_all_saves() -> None:
    source = "import sys\nprint('torch' in sys.modules)\nimport torch\n" + SOURCE
    Path("my_port.py").write_text(source)
    with Watching() as watching:
        assert "False" in watching.told()
        assert "True" in watching.saved(source)


def test_a_watched_command_is_run_without_watching() -> None:
    words = ["run", "--watch", "a.py", "--case", "x", "--watch=b.py"]
    assert without_watch(words) == ["run", "--case", "x"]
