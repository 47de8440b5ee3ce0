"""A streamed capture that is killed again and again ends as one that never was; several processes end as one."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from grok_conformance.reference.checkpoint.synthesis import synthesize
from grok_conformance.reference.config import PRESETS

NUM_KILLS, NUM_KILLS_THOROUGH = 2, 20
SECONDS_PER_FILE = 0.05
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(tmp_path_factory.mktemp("checkpoint"), PRESETS["small"])


@pytest.fixture(scope="module")
def whole(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a capture that nothing interrupts."""
    folder = tmp_path_factory.mktemp("whole") / "capture"
    finish(start(checkpoint, folder))
    return files(folder)


def start(
    checkpoint: Path, folder: Path, *options: str, seconds: float = 0.0, devices: int = 1
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.harness.large.capture_slowly", str(seconds), "--config", "small"]
    command += ["--checkpoint", str(checkpoint), "--out", str(folder), "--decode", "1", *options]
    environment = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "JAX_COMPILATION_CACHE_DIR": str(checkpoint.parent / f"compiled-{devices}"),  # once for all starts
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    return subprocess.Popen(  # noqa: S603 - this repository's own module
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, errors = process.communicate(timeout=240)
    assert process.returncode == 0, errors
    return output


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def kill_while_it_writes(process: subprocess.Popen[str], folder: Path, moment: float) -> None:
    """Kill the process so many seconds after its first write of this run."""
    before = newest(folder)
    while newest(folder) == before and process.poll() is None:
        time.sleep(0.005)
    time.sleep(moment)
    process.kill()
    process.communicate()


def newest(folder: Path) -> int:
    return max((path.stat().st_mtime_ns for path in [folder, *folder.glob("*")] if path.exists()), default=0)


def test_a_capture_that_is_killed_at_random_moments_ends_as_one_that_never_was(
    checkpoint: Path, whole: dict[str, bytes], tmp_path: Path, pytestconfig: pytest.Config
) -> None:
    folder = tmp_path / "killed"
    chance = random.Random(7)  # noqa: S311 - moments, no secrets
    for _ in range(NUM_KILLS_THOROUGH if pytestconfig.getoption("--thorough") else NUM_KILLS):
        kill_while_it_writes(start(checkpoint, folder, seconds=SECONDS_PER_FILE), folder, chance.uniform(0, 1))
        if "manifest.json" in files(folder):
            assert files(folder) == whole
            shutil.rmtree(folder)
    finish(start(checkpoint, folder))
    assert files(folder) == whole


def test_two_processes_capture_what_one_does(checkpoint: Path, whole: dict[str, bytes], tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    together = ("--coordinator", address, "--processes", "2", "--process-id")
    running = [start(checkpoint, tmp_path / "two", *together, str(i), devices=4) for i in range(2)]
    for process in running:
        finish(process)
    two = files(tmp_path / "two")
    assert two.keys() == whole.keys()
    different = {name for name in whole if whole[name] != two[name]}
    assert different == {"manifest.json"}  # it says how many processes and devices there were
