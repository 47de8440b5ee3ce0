"""Whatever is read may be damaged, or an enemy's: the reader's own verdict comes of it, or status 2 and one line."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from tests.robustness.corruptions import corrupt
from tests.robustness.readers import READERS, Reader
from tests.robustness.trials import Outcome, everything, outcome

MAX_SECONDS = 20.0
"""Whatever a file says, its reader has ended after so much time of a processor."""

MAX_LINE = 520
"""Characters of a refusal, the end of the line included."""


def attempt(reader: Reader, name: str, folder: Path, random: np.random.Generator) -> tuple[str, Outcome, float]:
    """Change one of a reader's files and run it; return what was changed, what came of it, and the seconds it took."""
    shutil.copytree(folder / name, folder / "here")
    try:
        files = sorted({path for glob in reader.files for path in (folder / "here").glob(glob) if is_full(path)})
        path = files[int(random.integers(len(files)))]
        what, data = corrupt(random, path.name, path.read_bytes())
        path.write_bytes(data)
        reader.sign(folder / "here")
        began = time.process_time()
        found = outcome(lambda _: reader.run(folder / "here"), ())
        return f"{what} of {path.relative_to(folder / 'here')}", found, time.process_time() - began
    finally:
        shutil.rmtree(folder / "here")


def is_full(path: Path) -> bool:
    return path.is_file() and path.stat().st_size > 0


def problem_of(found: Outcome, seconds: float) -> str:
    """Return what is wrong with what came of an attempt, an empty string where nothing is."""
    if seconds > MAX_SECONDS:
        return f"took {seconds:.0f} s"
    if found.status == 2:
        return "" if found.refused and len(found.said) <= MAX_LINE else "refused in more than a line"
    return "" if found.status in {0, 1} else f"status {found.status}"


@pytest.mark.parametrize("name", READERS)
def test_whatever_is_in_a_file_its_reader_ends_as_documented(
    name: str, tmp_path: Path, num_trials: int, tried: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = READERS[name]
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    (tmp_path / name).mkdir()
    reader.write(tmp_path / name)
    before, random = everything(tmp_path), np.random.default_rng(6)
    assert outcome(lambda _: reader.run(tmp_path / name), ()).status in {0, 1}
    statuses: Counter[int] = Counter()
    for trial in range(max(3, int(num_trials * reader.share / 8))):
        what, found, seconds = attempt(reader, name, tmp_path, random)
        assert not problem_of(found, seconds), f"trial {trial}: {what}: {problem_of(found, seconds)}: {found}"
        statuses[found.status] += 1
        tried["other files"] += 1
    assert statuses[2] + statuses[1] > 0
    produced = {path: data for path, data in everything(tmp_path).items() if not path.startswith(f"{name}/page")}
    assert produced == before
