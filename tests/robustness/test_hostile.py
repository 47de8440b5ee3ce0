"""A hostile candidate gets its documented verdict, the good one beside it its own; nothing is harmed, nothing left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from grok_conformance.harness.contract import GOLDEN_DIR
from grok_conformance.harness.formats.scratch import remove_tree
from grok_conformance.harness.golden.reading import Golden, open_golden
from grok_conformance.harness.judging.groups import read_groups
from grok_conformance.harness.running.child_process import Limits
from grok_conformance.harness.running.registry import find_candidate
from grok_conformance.harness.sessions.run import run_candidates
from tests.robustness.hostile import GOOD, HOSTILE, program
from tests.robustness.readers import CASE
from tests.robustness.trials import everything

MIB = 2**20


def limits() -> Limits:
    """What each candidate may take; a run that ends stops whoever has the same."""
    return Limits(silent_seconds=6.0, memory_bytes=300 * MIB, num_processes=20, file_bytes=2**35, disk_bytes=48 * MIB)


SET_FLAGS = 0x40086602
"""The request to Linux that sets the flags of a file."""

PRESET = CASE.partition("/")[0]


@pytest.fixture(scope="module")
def sound() -> Golden:
    """The golden set, whose manifest is read once."""
    return open_golden(GOLDEN_DIR / "v1")


def harmed(folder: Path) -> Path:
    """Return a golden set of one case, which may be harmed."""
    copy = folder / "golden"
    for name in (f"presets/{PRESET}", f"cases/{CASE}"):
        shutil.copytree(GOLDEN_DIR / "v1" / name, copy / name)
    for name in ("manifest.json", "manifest.sha256", "noise.json"):
        shutil.copyfile(GOLDEN_DIR / "v1" / name, copy / name)
    return copy


@pytest.fixture(autouse=True)
def removable(tmp_path: Path) -> Iterator[None]:
    """Remove afterwards what pytest cannot: immutable files, and folders nested deeply."""
    yield
    for path in (tmp_path / "run").glob("answers/bad/*/*"):
        for each in (path, path / "taps.safetensors"):
            with contextlib.suppress(OSError):
                number = os.open(each, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
                fcntl.ioctl(number, SET_FLAGS, struct.pack("l", 0))
                os.close(number)
    remove_tree(tmp_path / "run")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Try every hostile candidate in a thorough run, every sixth otherwise."""
    if "name" in metafunc.fixturenames:
        metafunc.parametrize("name", list(HOSTILE)[:: 1 if metafunc.config.getoption("--thorough") else 6])


def test_a_hostile_candidate_gets_its_verdict_and_the_good_one_keeps_its_own(
    name: str, tmp_path: Path, sound: Golden, tried: Counter[str]
) -> None:
    hostile = HOSTILE[name]
    (tmp_path / "neighbour.txt").write_text("not yours")
    (tmp_path / "elsewhere").mkdir()
    golden = open_golden(harmed(tmp_path)) if name.startswith("golden") else sound
    groups = read_groups(golden, CASE)
    bad = program(tmp_path, "bad", hostile.body.replace("{{", "{").replace("}}", "}"), golden.directory)
    good = program(tmp_path, "good", GOOD, sound.directory)
    candidates = [find_candidate(str(path)) for path in (bad, good)]
    judged = run_candidates(candidates, groups, "1.0.0", tmp_path / "run", limits())
    tried["hostile candidates"] += 1
    first, second = (each.verdict for each in judged)
    (case,) = first.cases
    assert case.status == hostile.status, case.reason
    assert hostile.reason in case.reason
    assert all(text.isprintable() and len(text) <= 520 for text in (first.name, first.version, case.reason))
    assert second.status == "pass", second.cases[0].reason
    assert (tmp_path / "neighbour.txt").read_text() == "not yours"
    assert everything(tmp_path / "elsewhere") == {}
    assert left_running(tmp_path) == []


def left_running(folder: Path) -> list[str]:
    """Return the command lines of processes that a hostile candidate of a folder has left."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(folder / "bad") in word for word in words) or words == ["sleep", "654"]:
            found.append(" ".join(words))
    return found


def test_there_are_at_least_forty() -> None:
    assert len(HOSTILE) >= 40
