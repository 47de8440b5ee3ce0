"""Golden fixtures are what the canonical model gives, again and again."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import capture
from harness.contract import GOLDEN_DIR
from harness.provenance import record_platform, record_toolchain
from harness.store import FixtureError, open_golden, read_taps
from harness.tensors import digest

COMMITTED = open_golden(GOLDEN_DIR / "v1")
PINNED = ("long", "float_weights")


def test_recapture_gives_equal_digests_on_the_same_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XLA_FLAGS")  # the tests' virtual devices are another platform
    groups = [group for group in capture.suite_groups() if group.preset.name in PINNED]
    capture.capture(tmp_path / "v1", groups)
    again = open_golden(tmp_path / "v1")
    provenance = COMMITTED.manifest.provenance
    same = (provenance.toolchain, provenance.platform["cpu"]) == (record_toolchain(), record_platform()["cpu"])
    for case_id in again.manifest.cases:
        assert again.manifest.cases[case_id].inputs == COMMITTED.manifest.cases[case_id].inputs
        committed, recaptured = read_taps(COMMITTED, case_id), read_taps(again, case_id)
        assert list(committed) == list(recaptured)
        if same:
            assert {k: digest(x) for k, x in committed.items()} == {k: digest(x) for k, x in recaptured.items()}


def test_a_golden_is_not_replaced_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = [group for group in capture.suite_groups() if group.preset.name == "long"]
    monkeypatch.setattr(capture, "CANONICAL", "numpy_float64")
    capture.capture(tmp_path / "v1", groups)
    monkeypatch.setattr(capture, "CANONICAL", "torch_eager")
    with pytest.raises(FixtureError, match="--replace"):
        capture.capture(tmp_path / "v1", groups)
