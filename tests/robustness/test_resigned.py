"""Golden sets that lie and are signed all the same: refused in one line or taken at their word, never a traceback."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import numpy as np

from grok_conformance.harness.__main__ import main
from tests.harness.tiny_golden import write_tiny
from tests.robustness.resigning import change_and_sign
from tests.robustness.trials import everything, outcome


def test_a_set_that_lies_is_refused_or_read_whatever_signed_it(
    tmp_path: Path, num_trials: int, tried: Counter[str]
) -> None:
    write_tiny(tmp_path / "sound")
    random, before = np.random.default_rng(5), everything(tmp_path / "sound")
    refused = 0
    for trial in range(num_trials):
        shutil.copytree(tmp_path / "sound", tmp_path / "v1")
        what = change_and_sign(random, tmp_path / "v1")
        found = outcome(main, ["check-golden", str(tmp_path / "v1")])
        assert found.refused or (found.status, found.said) == (0, ""), f"trial {trial}: {what}: {found}"
        refused += found.refused
        shutil.rmtree(tmp_path / "v1")
        tried["golden sets signed again"] += 1
    assert refused > num_trials // 2
    assert everything(tmp_path / "sound") == before


def test_a_set_signed_again_unchanged_is_sound(tmp_path: Path) -> None:
    write_tiny(tmp_path / "v1")
    assert outcome(main, ["check-golden", str(tmp_path / "v1")]).status == 0
