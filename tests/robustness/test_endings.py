"""Commands ended by a signal at any moment, or whose disk fails at any call: nothing is lost, nothing runs on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from grok_conformance.harness.running.child_process import ROOT

NUM_KILLS, NUM_KILLS_THOROUGH = 6, 100
NUM_FAILURES, NUM_FAILURES_THOROUGH = 2, 40


def done(module: str, folder: Path, number: int, **environment: str) -> str:
    """Run a module of these tests in a process of its own, and return the last lines that it printed."""
    process = subprocess.run(  # noqa: S603 - this interpreter
        [sys.executable, "-m", f"tests.robustness.{module}", str(folder), str(number)],
        capture_output=True, text=True, check=False, cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip
    assert process.returncode == 0, f"{process.stdout[-2000:]}\n{process.stderr[-4000:]}"
    return process.stdout


def test_a_signal_at_any_moment_loses_nothing_and_leaves_nothing_running(
    tmp_path: Path, request: pytest.FixtureRequest, tried: Counter[str]
) -> None:
    number = NUM_KILLS_THOROUGH if request.config.getoption("--thorough") else NUM_KILLS
    assert f"{number} signals: nothing lost, nothing left running" in done("killed_commands", tmp_path, number)
    tried["signals"] += number


@pytest.mark.skipif(shutil.which("cc") is None or sys.platform != "linux", reason="needs a C compiler, on Linux")
def test_a_file_system_that_fails_at_any_call_is_one_line(
    tmp_path: Path, request: pytest.FixtureRequest, tried: Counter[str]
) -> None:
    number = NUM_FAILURES_THOROUGH if request.config.getoption("--thorough") else NUM_FAILURES
    library, source = tmp_path / "refusing.so", Path(__file__).with_name("refusing_calls.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)  # noqa: S603, S607
    said = done("failing_calls", tmp_path / "work", number, LD_PRELOAD=str(library))
    assert said.count("status 2 and one line each") == 3
    tried["failing file systems"] += 3 * number
